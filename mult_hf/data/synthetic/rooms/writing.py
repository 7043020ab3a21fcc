"""Write the Rooms data set: its shards and card, with continuation after an interruption."""

import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from mult_hf.data.cores import threads_per_process
from mult_hf.data.files import make_folder, remove_unfinished, whole_file
from mult_hf.data.ray_cluster import Cluster, map_on_ray
from mult_hf.data.schema import card_configs
from mult_hf.data.synthetic.shards import check_existing_card, check_existing_shards, write_shard
from mult_hf.data.workers import worker_pool

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

PRETTY_NAME = "Rooms"

Renderer = Callable[[Iterable[int]], Iterator[list[dict[str, Any]]]]
"""Renders the rows of rooms from their seeds, in order."""


@dataclass(frozen=True)
class Shard:
    """One file of a split.

    Args:
        file_name: name in the pattern of `datasets`.
        seeds: seeds of its rooms.
    """

    file_name: str
    seeds: range


def plan_shards(settings: RoomsSettings) -> list[Shard]:
    """All files of a data set, smallest split first, so that an unfinished data set can already be used for evaluation."""
    shards = []
    for split in sorted(settings.split_seeds, key=lambda split: len(settings.split_seeds[split])):
        seeds, step = settings.split_seeds[split], settings.rooms_per_shard
        count = -(-len(seeds) // step)
        for index in range(count):
            shards.append(Shard(f"{split}-{index:05d}-of-{count:05d}.parquet", seeds[index * step : (index + 1) * step]))
    return shards


def write_dataset(
    output_dir: str | Path,
    settings: RoomsSettings,
    library: str | None = None,
    num_proc: int = 1,
    on_ray: Cluster | None = None,
) -> None:
    """Render the missing files of a data set; existing ones stay as they are.

    Args:
        output_dir: created if it does not exist; `datasets.load_dataset(output_dir)` reads the result.
        settings: settings of the data set.
        library: LLVM library, as returned by `variants.choose_variant`.
        num_proc: number of rendering processes; 1 renders in this process.
        on_ray: the connected cluster on which these processes run; without it, they run on this machine.

    Raises:
        ValueError: if the directory contains files with other settings or another README.md, or `num_proc` is below 1.
    """
    if num_proc < 1:
        raise ValueError(f"num_proc is {num_proc}; it must be at least 1")
    output_dir = Path(output_dir)
    make_folder(output_dir)
    check_existing_card(output_dir, PRETTY_NAME)
    check_existing_shards(output_dir, asdict(settings))
    remove_unfinished(output_dir)
    write_card(output_dir, settings)
    shards = plan_shards(settings)
    missing = [shard for shard in shards if not (output_dir / shard.file_name).exists()]
    rooms_done = settings.rooms - sum(len(shard.seeds) for shard in missing)
    with (
        _renderer(settings, library, num_proc) if on_ray is None else _ray_renderer(settings, library, num_proc, on_ray) as render,
        tqdm(total=settings.rooms * settings.views, initial=rooms_done * settings.views, unit="view") as progress,
    ):
        rendered = render([seed for shard in missing for seed in shard.seeds])
        for shard in missing:
            rows: list[dict[str, Any]] = []
            for room_rows in islice(rendered, len(shard.seeds)):
                rows += room_rows
                progress.update(settings.views)
            write_shard(output_dir / shard.file_name, rows, FEATURES, asdict(settings))
    write_card(output_dir, settings)  # again, because its digest of the files has changed


def command(settings: RoomsSettings, output_name: str) -> str:
    """The command line that renders a data set with these settings."""
    flags = {"spp" if name == "samples_per_pixel" else name: value for name, value in asdict(settings).items()}
    lists = {name: value if isinstance(value, tuple) else (value,) for name, value in flags.items()}
    argv = [argument for name, values in lists.items() if values for argument in (f"--{name}", *map(str, values))]
    return shlex.join(["mult-hf", "render", "rooms", output_name, *argv])


def write_card(output_dir: Path, settings: RoomsSettings) -> None:
    """Write README.md with a description for readers, and `mult_tasks` in its YAML header for programs."""
    header = DatasetCardData(
        pretty_name=PRETTY_NAME,
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
rendered with Mitsuba 3 ({samples} samples per pixel, denoised, variant `{variant}`). Command:

    {command}

| split | rooms | views | seeds of the rooms |
|---|---|---|---|
{splits}

Every room is in only one split. With the same versions of numpy, Mitsuba, its denoiser and Pillow, the same command gives the same
bytes. To continue an interrupted run, repeat the command.

"""

COLUMNS = """\
| column | stored | meaning |
|---|---|---|
| `room`, `view` | int32 | seed of the room, number of the view |
| `room_kind` | string | kind of room, for example `bedroom` |
| `field_of_view` | float32 | horizontal and vertical, degrees |
| `focal_length` | float32 | pixels |
| `principal_point` | two float32 | x, y in pixels from the top left corner; the centre of the top left pixel is (0.5, 0.5) |
| `image` | JPEG | RGB |
| `segmentation` | 8-bit PNG | 0 unknown (things without a class), then from 1: {classes} |
| `depth` | 16-bit PNG | metres along the optical axis = value / 512 |
| `normals` | 8-bit PNG | unit vector = value / 127.5 - 1; x right, y up, z towards the viewer |
| `keypoints2d` | 8-bit PNG | strength of corner-like points in the stored JPEG, times 20, clipped to [0, 1] = value / 255 |
| `edges2d` | 8-bit PNG | magnitude of texture edges in the stored JPEG, times 4, clipped to [0, 1] = value / 255 |
| `reshading` | 8-bit PNG | shading of the untextured geometry by a light at the camera, in [0, 1] = value / 255 |

The last three follow Taskonomy's definitions; see `mult_hf.data.derive`.

"""

LIMITS = """\
Limits: rooms are box-shaped, with closed doors and no people. Materials are matt or softly glossy, without glass or mirrors. Window
panes show an image and have the depth of the pane.
"""


def _render_function(settings: RoomsSettings) -> Callable[[int], list[dict[str, Any]]]:
    """Renders a room's rows from its seed."""
    return partial({PLAIN: render_room, VARIED: render_varied_room}[settings.scenes], settings)


class _RoomWorker:
    """Renders rooms in one process on Ray."""

    def __init__(self, settings: RoomsSettings, library: str | None, threads: int) -> None:
        activate(settings.variant, library, threads)
        self.render = _render_function(settings)

    def __call__(self, seeds: list[int]) -> list[list[dict[str, Any]]]:
        return [self.render(seed) for seed in seeds]


@contextmanager
def _ray_renderer(settings: RoomsSettings, library: str | None, num_proc: int, cluster: Cluster) -> Iterator[Renderer]:
    """Render rooms in processes on Ray that share its CPU cores; a room whose process is lost is rendered again."""
    threads = max(1, cluster.cpus // num_proc)
    make = partial(_RoomWorker, settings, library, threads)

    def render(seeds: Iterable[int]) -> Iterator[list[dict[str, Any]]]:
        results = map_on_ray(make, list(seeds), items_per_task=1, workers=num_proc, num_cpus=threads, in_order=True)
        return chain.from_iterable(results)

    yield render


@contextmanager
def _renderer(settings: RoomsSettings, library: str | None, num_proc: int) -> Iterator[Renderer]:
    """Render rooms in this process, or in several that share the cores."""
    render = _render_function(settings)
    if num_proc == 1:
        activate(settings.variant, library)
        yield partial(map, render)
        return
    threads = threads_per_process(None, num_proc)
    with worker_pool(num_proc, activate, settings.variant, library, threads) as pool:
        yield partial(pool.map, render)
