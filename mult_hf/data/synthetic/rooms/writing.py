"""The Rooms data set on disk: its shards, its card, and going on after an interruption."""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from mult_hf.data.files import remove_unfinished, whole_file
from mult_hf.data.schema import card_configs
from mult_hf.data.synthetic.shards import check_existing_shards, write_shard

from .samples import FEATURES, TASK_ENTRIES, render_room
from .settings import PLAIN, VARIED, RoomsSettings
from .variants import activate
from .varied.card import INTRODUCTION as VARIED_INTRODUCTION
from .varied.card import LIMITS as VARIED_LIMITS
from .varied.card import describe_groups
from .varied.samples import render_room as render_varied_room

try:
    from tqdm import tqdm
except ImportError as error:
    raise ImportError(f'writing rooms needs tqdm ({error}); install them with: pip install "mult-hf[rooms]"') from error

Renderer = Callable[[Iterable[int]], Iterator[list[dict[str, Any]]]]
"""Turns seeds of rooms into their rows, in order."""


@dataclass(frozen=True)
class Shard:
    """One file of a split.

    Args:
        file_name: as `datasets` names shards.
        seeds: of its rooms.
    """

    file_name: str
    seeds: range


def plan_shards(settings: RoomsSettings) -> list[Shard]:
    """All files of a data set; the small splits come first, so that a partial set can already be evaluated on."""
    shards = []
    for split in sorted(settings.split_seeds, key=lambda split: len(settings.split_seeds[split])):
        seeds, step = settings.split_seeds[split], settings.rooms_per_shard
        count = -(-len(seeds) // step)
        for index in range(count):
            shards.append(Shard(f"{split}-{index:05d}-of-{count:05d}.parquet", seeds[index * step : (index + 1) * step]))
    return shards


def write_dataset(output_dir: str | Path, settings: RoomsSettings, library: str | None = None, num_proc: int = 1) -> None:
    """Render the missing files of a data set; existing ones stay as they are.

    Args:
        output_dir: made if it does not exist; `datasets.load_dataset(output_dir)` reads the result.
        settings: what to render.
        library: LLVM library, as `variants.choose_variant` found it.
        num_proc: processes that render; with 1, this one does.

    Raises:
        ValueError: if the directory holds files of other settings, or `num_proc` is below 1.
    """
    if num_proc < 1:
        raise ValueError(f"num_proc is {num_proc}; it must be at least 1")
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    check_existing_shards(output_dir, asdict(settings))
    remove_unfinished(output_dir)
    write_card(output_dir, settings)
    shards = plan_shards(settings)
    missing = [shard for shard in shards if not (output_dir / shard.file_name).exists()]
    rooms_done = settings.rooms - sum(len(shard.seeds) for shard in missing)
    with (
        _renderer(settings, library, num_proc) as render,
        tqdm(total=settings.rooms * settings.views, initial=rooms_done * settings.views, unit="view") as progress,
    ):
        rendered = render([seed for shard in missing for seed in shard.seeds])
        for shard in missing:
            rows: list[dict[str, Any]] = []
            for room_rows in islice(rendered, len(shard.seeds)):
                rows += room_rows
                progress.update(settings.views)
            write_shard(output_dir / shard.file_name, rows, FEATURES, asdict(settings))
    write_card(output_dir, settings)  # once more, now that it can tell these files from those of an unfinished rendering


def command(settings: RoomsSettings, output_name: str) -> str:
    """The line that makes a data set of these settings."""
    flags = {"spp" if name == "samples_per_pixel" else name: value for name, value in asdict(settings).items()}
    lists = {name: value if isinstance(value, tuple) else (value,) for name, value in flags.items()}
    words = [word for name, values in lists.items() if values for word in (f"--{name}", *map(str, values))]
    return shlex.join(["mult-hf", "render", "rooms", output_name, *words])


def write_card(output_dir: Path, settings: RoomsSettings) -> None:
    """Write README.md: the columns and encodings for people, and for programs the key `mult_tasks` in its YAML header."""
    header = DatasetCardData(
        pretty_name="Rooms",
        license="mit",
        task_categories=["image-segmentation", "depth-estimation"],
        tags=["synthetic", "indoor", "multi-task"],
        configs=card_configs(output_dir, [{"split": split, "path": f"{split}-*.parquet"} for split in settings.split_seeds]),
        mult_tasks=list(TASK_ENTRIES),
    )
    splits = "\n".join(
        f"| {split} | {len(seeds)} | {len(seeds) * settings.views} | {seeds[0]} to {seeds[-1]} |"
        for split, seeds in settings.split_seeds.items()
    )
    introduction, limits = (VARIED_INTRODUCTION, VARIED_LIMITS) if settings.scenes == VARIED else (INTRODUCTION, LIMITS)
    text = f"{introduction}{COLUMNS}{limits}".format(
        size=settings.size, samples=settings.samples_per_pixel, variant=settings.variant, splits=splits,
        command=command(settings, output_dir.resolve().name), classes=", ".join(TASK_ENTRIES[0]["class_names"]),
        groups=describe_groups(settings.groups),
    )  # fmt: skip
    with whole_file(output_dir / "README.md") as unfinished:
        DatasetCard(f"---\n{header.to_yaml()}\n---\n{text}").save(unfinished)


INTRODUCTION = """\
# Rooms

Procedural indoor scenes (living rooms, bedrooms, dining rooms, studies, kitchens) with six dense maps, {size} x {size} pixels,
rendered with Mitsuba 3 ({samples} samples per pixel, denoised, variant `{variant}`). Made by

    {command}

| split | rooms | views | seeds of the rooms |
|---|---|---|---|
{splits}

No room is in two splits. The same command makes the same bytes again where the same versions of numpy, Mitsuba, its denoiser
and Pillow are installed; an interrupted run goes on when it is started again.

"""

COLUMNS = """\
| column | stored | meaning |
|---|---|---|
| `room`, `view` | int32 | seed of the room, number of the view |
| `room_kind` | string | what the room is furnished as |
| `field_of_view` | float32 | horizontal, degrees; the vertical one is the same |
| `focal_length` | float32 | pixels |
| `principal_point` | two float32 | x, y in pixels from the top left corner; a pixel's centre is half a pixel from its corner |
| `image` | JPEG | red, green, blue |
| `segmentation` | 8-bit PNG | 0 not known (things without a class), then from 1: {classes} |
| `depth` | 16-bit PNG | metres along the optical axis = value / 512 |
| `normals` | 8-bit PNG | unit vector = value / 127.5 - 1; x right, y up, z towards the viewer |
| `keypoints2d` | 8-bit PNG | strength of corner-like points of the stored JPEG times 20, clipped to [0, 1], = value / 255 |
| `edges2d` | 8-bit PNG | magnitude of texture edges of the stored JPEG times 4, clipped to [0, 1], = value / 255 |
| `reshading` | 8-bit PNG | shading of the bare geometry by a light at the camera, in [0, 1], = value / 255 |

The last three follow Taskonomy's definitions, see `mult_hf.data.derive`.

"""

LIMITS = """\
Limits: the rooms are box-shaped with closed doors, nobody is in them, materials are matt or softly glossy, no glass and no mirrors;
window panes show an image, and their depth is that of the pane.
"""


@contextmanager
def _renderer(settings: RoomsSettings, library: str | None, num_proc: int) -> Iterator[Renderer]:
    """What renders rooms: this process, or several that share the cores."""
    render = partial({PLAIN: render_room, VARIED: render_varied_room}[settings.scenes], settings)
    if num_proc == 1:
        activate(settings.variant, library)
        yield partial(map, render)
        return
    threads = max(1, (os.cpu_count() or 1) // num_proc)
    # Forked processes would share the state of Mitsuba's threads.
    start = {"mp_context": get_context("spawn"), "initializer": activate, "initargs": (settings.variant, library, threads)}
    with ProcessPoolExecutor(num_proc, **start) as pool:
        try:
            yield partial(pool.map, render)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
