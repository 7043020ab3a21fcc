"""Write the data set: a Parquet file per level, a card, and Freedoom's licence.

The rows of a file depend only on the settings and its level. So an interrupted rendering continues with the first level that has
no file, and gives the same result as an uninterrupted one.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from mult_hf.data.files import make_folder, remove_unfinished, whole_file
from mult_hf.data.schema import card_configs
from mult_hf.data.synthetic.shards import check_existing_card, check_existing_shards, count_rows, write_shard

from .levels import SPLITS, freedoom_version, select_levels, split_of, vizdoom
from .raycasting import VERTICAL_STRETCH
from .samples import FEATURES, TASK_ENTRIES, encode_sample
from .views import BRIGHT_MEAN, HIGHEST_GAIN, HIGHEST_UNKNOWN_SHARE, LOWEST_EXPONENT, METRES_PER_MAP_UNIT, check_size, render_views

PRETTY_NAME = "Doom: Freedoom levels with six dense maps"
LICENSE_FILE = "LICENSE-Freedoom.txt"


@dataclass(frozen=True)
class Rendering:
    """What to render.

    Args:
        levels: names of levels, in order.
        views: total number of views, spread evenly over the levels; the first levels get the remainder.
        size: side of the square images in pixels.
        seed: a whole number, at least 0.

    Raises:
        ValueError: if one of them is invalid.
    """

    levels: tuple[str, ...]
    views: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.views < len(self.levels):
            raise ValueError(f"{self.views} views cannot be spread over {len(self.levels)} levels; give at least one view per level")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed} is negative; give a whole number of at least 0")

    def views_by_level(self) -> dict[str, int]:
        """Number of views per level."""
        each, more = divmod(self.views, len(self.levels))
        return {level: each + (place < more) for place, level in enumerate(self.levels)}


def shard_path(folder: Path, level: str) -> Path:
    """File of a level's rows, `data/<split>-<level>.parquet`."""
    return folder / "data" / f"{split_of(level)}-{level}.parquet"


def write_dataset(folder: Path, rendering: Rendering) -> dict[str, int]:
    """Render the missing levels, then write the card.

    Args:
        folder: created if it does not exist; may contain an interrupted rendering with the same settings.
        rendering: levels and settings.

    Returns:
        `dict[str, int]`: rows by level. A level with too few suitable places has fewer than requested.

    Raises:
        ValueError: if the folder is a file, or contains a rendering with other settings or another README.md.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder to write to")
    check_existing_card(folder, PRETTY_NAME)
    check_existing_shards(folder, asdict(rendering))
    data = folder / "data"
    make_folder(data)
    remove_unfinished(data)
    wanted = rendering.views_by_level()
    with tqdm(total=rendering.views, unit="view", smoothing=0.05) as progress:
        for level, count in wanted.items():
            path = shard_path(folder, level)
            if path.exists():
                progress.update(count)
                progress.unpause()  # existing files do not count for the estimate of the time left
                continue
            progress.set_postfix_str(level)
            write_shard(path, _rows(level, count, rendering, progress.update), FEATURES, asdict(rendering))
    rows = {level: count_rows(shard_path(folder, level)) for level in wanted}
    _write_text(folder / LICENSE_FILE, license_text())
    _write_text(folder / "README.md", card(folder, rendering, rows))
    return rows


def license_text() -> str:
    """Freedoom's licence, which must accompany everything derived from it."""
    return files(__package__).joinpath(LICENSE_FILE).read_text(encoding="utf-8")


def card(folder: Path, rendering: Rendering, rows: Mapping[str, int]) -> str:
    """The data set's README.md with the `mult_tasks` record in its YAML header.

    Args:
        folder: folder of the finished data set.
        rendering: levels and settings.
        rows: number of rows per level.
    """
    levels = {split: [level for level in rows if split_of(level) == split] for split in SPLITS}
    counts = {split: sum(rows[level] for level in levels[split]) for split in SPLITS if levels[split]}
    header = {
        "pretty_name": PRETTY_NAME,
        "license": "bsd-3-clause",
        "task_categories": ["image-segmentation", "depth-estimation"],
        "configs": card_configs(folder, [{"split": split, "path": f"data/{split}-*.parquet"} for split in counts]),
        "mult_tasks": list(TASK_ENTRIES),
    }
    body = (
        files(__package__)
        .joinpath("card.md")
        .read_text(encoding="utf-8")
        .format(
            size=rendering.size,
            total=sum(rows.values()),
            seed=rendering.seed,
            views=rendering.views,
            levels=_shortest_names(rendering.levels),
            splits="\n".join(f"| {split} | {counts[split]} | {', '.join(levels[split])} |" for split in counts),
            classes=", ".join(TASK_ENTRIES[0]["class_names"]),
            metres=f"1/{round(1 / METRES_PER_MAP_UNIT)}",
            stretch=VERTICAL_STRETCH,
            unknown_percent=f"{100 * HIGHEST_UNKNOWN_SHARE:g}",
            gain=HIGHEST_GAIN,
            mean=BRIGHT_MEAN,
            exponent=LOWEST_EXPONENT,
            vizdoom=vizdoom.__version__,
            freedoom=freedoom_version(),
            license_file=LICENSE_FILE,
            license=license_text().strip(),
        )
    )
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n{body}"


def _shortest_names(levels: tuple[str, ...]) -> str:
    """The shortest value of `--levels` that selects these levels."""
    return next((name for name in ("all", *SPLITS) if select_levels([name]) == levels), " ".join(levels))


def _rows(level: str, count: int, rendering: Rendering, advance: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Render a level, reporting each finished view to `advance`."""
    rows = []
    for number, view in enumerate(render_views(level, count, rendering.size, rendering.seed)):
        rows.append(encode_sample(level, number, view))
        advance(1)
    return rows


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
