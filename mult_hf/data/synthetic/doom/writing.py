"""The data set on disk: a parquet file a level, a card, and Freedoom's licence.

A file appears under its name only when it is complete, and its rows depend on nothing but the arguments and its level. So an
interrupted rendering goes on with the first level that has no file, and the result is the same as without the interruption.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet
import yaml
from datasets import Dataset
from tqdm import tqdm

from mult_hf.data.schema import card_configs

from .geometry import VERTICAL_STRETCH
from .levels import SPLITS, freedoom_version, select_levels, split_of, vizdoom
from .samples import FEATURES, TASK_ENTRIES, encode_sample
from .views import BRIGHT_MEAN, HIGHEST_GAIN, HIGHEST_UNKNOWN_SHARE, LOWEST_EXPONENT, METRES_PER_MAP_UNIT, check_size, render_views

ARGUMENTS_FILE = "rendering.json"
LICENSE_FILE = "LICENSE-Freedoom.txt"


@dataclass(frozen=True)
class Rendering:
    """What to render.

    Args:
        levels: names of levels, in order.
        views: how many in all, spread evenly over the levels; the first levels take what does not divide.
        size: pixels of the square images.
        seed: a whole number, at least 0.

    Raises:
        ValueError: if one of them is impossible.
    """

    levels: tuple[str, ...]
    views: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.views < len(self.levels):
            raise ValueError(f"{self.views} views cannot be spread over {len(self.levels)} levels; give at least one view a level")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed} is negative; give a whole number from 0 on")

    def views_by_level(self) -> dict[str, int]:
        """How many views each level gives."""
        each, more = divmod(self.views, len(self.levels))
        return {level: each + (place < more) for place, level in enumerate(self.levels)}


def shard_path(folder: Path, level: str) -> Path:
    """File of a level's rows, `data/<split>-<level>.parquet`."""
    return folder / "data" / f"{split_of(level)}-{level}.parquet"


def write_dataset(folder: Path, rendering: Rendering) -> dict[str, int]:
    """Render what is still missing, then write the card.

    Args:
        folder: made if it does not exist; may hold an interrupted rendering of the same arguments.
        rendering: what to render.

    Returns:
        `dict[str, int]`: rows by level. A level that has too few good places gives fewer than were asked for.

    Raises:
        ValueError: if the folder is a file, or holds a rendering with other arguments.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder to write to")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    _claim(folder, rendering)
    wanted = rendering.views_by_level()
    with tqdm(total=rendering.views, unit="view", smoothing=0.05) as progress:
        for level, count in wanted.items():
            path = shard_path(folder, level)
            if path.exists():
                progress.update(count)
                progress.unpause()  # what was there already says nothing about the time left
                continue
            progress.set_postfix_str(level)
            _write_shard(path, level, count, rendering, progress.update)
    rows = {level: pyarrow.parquet.read_metadata(shard_path(folder, level)).num_rows for level in wanted}
    _replace(folder / LICENSE_FILE, license_text().encode())
    _replace(folder / "README.md", card(folder, rendering, rows).encode())
    return rows


def license_text() -> str:
    """Freedoom's licence, which asks to travel with everything made of it."""
    return files(__package__).joinpath(LICENSE_FILE).read_text(encoding="utf-8")


def card(folder: Path, rendering: Rendering, rows: Mapping[str, int]) -> str:
    """The data set's README.md with the `mult_tasks` record in its YAML header.

    Args:
        folder: of the finished data set.
        rendering: what was rendered.
        rows: how many rows each level has.
    """
    levels = {split: [level for level in rows if split_of(level) == split] for split in SPLITS}
    counts = {split: sum(rows[level] for level in levels[split]) for split in SPLITS if levels[split]}
    header = {
        "pretty_name": "Doom: Freedoom levels with six dense maps",
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
    """What to give `--levels` to get these levels."""
    return next((name for name in ("all", *SPLITS) if select_levels([name]) == levels), " ".join(levels))


def _write_shard(path: Path, level: str, count: int, rendering: Rendering, advance: Callable[[int], Any]) -> None:
    """Render a level and put the file in place in one step."""
    rows = []
    for number, view in enumerate(render_views(level, count, rendering.size, rendering.seed)):
        rows.append(encode_sample(level, number, view))
        advance(1)
    unfinished = path.with_suffix(".unfinished")
    # Not through to_parquet, whose own progress bar would cut through this one; the table carries the features all the same.
    pyarrow.parquet.write_table(Dataset.from_list(rows, features=FEATURES).data.table, unfinished)
    os.replace(unfinished, path)


def _claim(folder: Path, rendering: Rendering) -> None:
    """Note the arguments in a new folder; refuse a folder that was begun with others."""
    arguments = json.loads(json.dumps(asdict(rendering)))
    path = folder / ARGUMENTS_FILE
    if not path.exists():
        _replace(path, json.dumps(arguments, indent=2).encode())
        return
    begun = json.loads(path.read_text())
    different = [f"{name} {begun.get(name)} (now {value})" for name, value in arguments.items() if begun.get(name) != value]
    if different:
        raise ValueError(f"{folder} was begun with {'; '.join(different)}; give the same arguments to go on, or another folder")


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
