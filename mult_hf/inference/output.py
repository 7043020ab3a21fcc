"""Write predictions as files that `TaskSpec.decode` reads back, in a directory whose card describes their encodings.

    README.md            card: the tasks with the encodings of these files under `mult_tasks`, and the settings
    maps/TASK/NAME.png   or .npz, see [`stored_form`]
    panels/NAME.jpg      image and maps side by side
    images/NAME.png      the images, if they are kept: then the directory is a data set of the schema (docs/data.md)
    metadata.jsonl       metadata of this data set
    sources/NAME.txt     digest of the image's contents, and a stamp: size and times of its file, or its store's checksum; written last

Every file is written under a temporary name, synced to disk and then renamed, so that an interruption leaves no partial file. In an object
store, each file is one object, which appears only when it is complete.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image
from torch import Tensor

from mult_hf.data.files import UNFINISHED
from mult_hf.data.markdown import markdown_table
from mult_hf.data.schema import CARD_KEY, card_header, is_url
from mult_hf.data.stores import naming_store
from mult_hf.model.cameras import film_equivalent, film_exif
from mult_hf.model.resizing import bounded_size
from mult_hf.model.tasks import TaskSpec

from .directory_lock import HOLDER_FILE, LOCK_FILE
from .locations import location, remove_folder, whole_output
from .panels import compose_panel, panel_cell, panel_size
from .png import COMPRESS_LEVEL
from .sources import SourceRecord
from .stored_maps import is_complete, is_float, map_suffix, precision, stored_form, write_map

SETTINGS_KEY = "mult_prediction"
"""Key in the card's header for the settings that the predictions depend on."""

MAX_FILE_NAME = 255
"""Longest file name in bytes on Linux, macOS and Windows."""


@dataclass
class PredictionDirectory:
    """The files of one output directory.

    Args:
        directory: path of the directory, or its URL in an object store; a URL needs the extra `store` and the store's own package.
        specs: entries of the predicted tasks.
        panels: whether to write a panel per image.
        keep_images: whether to write the images too.
        max_side: longest side of maps and kept images in pixels; by default the longest side of each image.
    """

    directory: str | Path
    specs: Mapping[str, TaskSpec]
    panels: bool = True
    keep_images: bool = False
    max_side: int | None = None

    def __post_init__(self) -> None:
        self.stored = {task: stored_form(spec) for task, spec in self.specs.items()}

    def path(self, *parts: str) -> Path:
        """The directory, or a path below it."""
        return location(self.directory, *parts)

    def map_path(self, task: str, name: str) -> Path:
        """Path of an image's map."""
        return self.path("maps", task, f"{name}{map_suffix(self.stored[task])}")

    def panel_path(self, name: str) -> Path:
        """Path of an image's panel."""
        return self.path("panels", f"{name}.jpg")

    def image_path(self, name: str) -> Path:
        """Path of the copied image, if images are kept."""
        return self.path("images", f"{name}.png")

    def source_path(self, name: str) -> Path:
        """Path of the record of the image's source."""
        return self.path("sources", f"{name}.txt")

    def is_predicted(self, name: str, stamp: Callable[[], str], digest: Callable[[], str]) -> bool:
        """Whether every file of an image exists and was predicted from the image's current contents.

        Args:
            name: name of the image.
            stamp: returns size and times of its file, or its store's checksum; if it is unchanged, the contents are not read.
            digest: returns the digest of its contents, which is compared if the stamp has changed.

        Raises:
            ValueError: if the names of the files would be too long.
        """
        if not self.is_finished(name) or (recorded := self._recorded(name)) is None:
            return False
        now = stamp()
        if now and now == recorded.stamp:
            return True
        if digest() != recorded.digest:
            return False
        with contextlib.suppress(OSError):  # the new stamp only saves reading the contents again
            self._write_record(name, SourceRecord(recorded.digest, now))
        return True

    def _recorded(self, name: str) -> SourceRecord | None:
        try:
            return SourceRecord(*self.source_path(name).read_text(encoding="utf-8").split("\n"))
        except (OSError, TypeError, UnicodeDecodeError):  # no record, or in another format
            return None

    def _write_record(self, name: str, record: SourceRecord) -> None:
        with whole_output(self.source_path(name)) as unfinished:
            unfinished.write_text("\n".join(record), encoding="utf-8")

    def is_finished(self, name: str) -> bool:
        """Whether every file of an image exists and is complete to its end.

        Raises:
            ValueError: if the names of the files would be too long, or cannot be listed with kept images.
        """
        if self.keep_images and (reason := _why_not_listed(name)):
            raise ValueError(f"metadata.jsonl cannot list it, because its name {reason}; rename the image, or leave out --keep_images")
        paths = [self.map_path(task, name) for task in self.specs]
        paths += [self.panel_path(name)] * self.panels + [self.image_path(name)] * self.keep_images
        longest = max((len(os.fsencode(path.name)) for path in paths), default=0)
        if longest > MAX_FILE_NAME:
            raise ValueError(
                f"its prediction files would have names of {longest} bytes, but at most {MAX_FILE_NAME} are allowed; rename the image"
            )
        return all(path.is_file() and (is_url(path) or is_complete(path)) for path in paths)

    def map_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the maps of an image of this (height, width)."""
        return bounded_size(image_size, self.max_side)

    def kept(self, image: Image.Image) -> Image.Image:
        """Resize an image to what `write` needs: to the size of the maps if images are kept, else to its size in the panel."""
        height, width = (self.map_size if self.keep_images else panel_size)((image.height, image.width))
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)

    def write(
        self,
        name: str,
        image: Image.Image,
        maps: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
        record: SourceRecord | None = None,
    ) -> None:
        """Write every file of an image.

        The record is removed first and written last, so that maps of two different images never count as finished.

        Args:
            name: name of the image.
            image: the RGB image, or what `kept` returned for it.
            maps: one map per task, as from `post_process`, of one size; or pairs of task and map, to keep one in memory at a time.
            record: the image's source; without it a later run predicts the image again.
        """
        self.source_path(name).unlink(missing_ok=True)
        shown, keys = {}, {}
        for task, prediction in maps.items() if isinstance(maps, Mapping) else maps:
            write_map(self.map_path(task, name), prediction, self.stored[task])
            if self.panels:
                shown[task], keys[task] = panel_cell(prediction, self.specs[task])
            del prediction  # before the next one is made
        image = self.kept(image)
        if self.keep_images:
            millimetres = film_equivalent(image)  # nothing else of its EXIF, such as the place
            exif = {} if millimetres is None else {"exif": film_exif(millimetres)}
            with whole_output(self.image_path(name)) as unfinished:
                image.save(unfinished, "PNG", compress_level=COMPRESS_LEVEL, **exif)
        if self.panels:
            with whole_output(self.panel_path(name)) as unfinished:
                compose_panel(image, shown, keys).save(unfinished, "JPEG", quality=90)
        if record is not None:
            self._write_record(name, record)

    def claim(self, model: str, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Prepare the directory for this run, or continue an earlier run with the same settings.

        Args:
            model: name of the model, for the card.
            settings: JSON values that the predictions depend on.
            overwrite: whether to remove an earlier run's predictions first.

        Raises:
            ValueError: if the directory contains other files or, without `overwrite`, predictions with other settings.
        """
        with naming_store(self.directory):
            self._claim(model, settings, overwrite)

    def _claim(self, model: str, settings: Mapping[str, Any], overwrite: bool) -> None:
        directory, card_path = self.path(), self.path("README.md")
        wanted = {**settings, "tasks": [spec.to_dict() for spec in self.stored.values()]}
        if card_path.is_file() and isinstance((header := card_header(card_path)).get(SETTINGS_KEY), Mapping):
            earlier = {**header[SETTINGS_KEY], "tasks": header.get(CARD_KEY)}
            if not overwrite:
                _refuse_others(directory, earlier, wanted)
                return
            for name in ("maps", "panels", "images", "sources"):
                remove_folder(self.path(name))
            self.path("metadata.jsonl").unlink(missing_ok=True)
        elif directory.exists() and any(_is_foreign(path) for path in directory.iterdir()):
            raise ValueError(f"{directory} contains files that are not predictions; give a new or empty --output_dir")
        self._write_card(card_path, model, settings)

    def _write_card(self, card_path: Path, model: str, settings: Mapping[str, Any]) -> None:
        data = DatasetCardData()
        data[CARD_KEY] = [spec.to_dict() for spec in self.stored.values()]
        data[SETTINGS_KEY] = dict(settings)
        rows = []
        for task, spec in self.stored.items():
            form, unit = spec.encoding, "class id" if spec.is_classification else spec.unit
            value = f"stored * {form.scale:.9g} + {form.offset:g}"
            rows.append([task, unit, f"`maps/{task}/NAME{map_suffix(spec)}`", form.dtype, value, f"{precision(spec):.2g}"])
        table = markdown_table(["task", "unit", "files", "stored as", "value", "precision"], rows)
        text = "Written by `mult-hf predict`. Stored values that the header above lists under `unknown` mark unknown pixels."
        parts = [f"---\n{data.to_yaml()}\n---", f"# Predictions of {model}", text, table]
        with whole_output(card_path) as unfinished:
            unfinished.write_text("\n\n".join(parts) + "\n", encoding="utf-8")

    def write_metadata(self) -> None:
        """List the kept images with their maps for `datasets.load_dataset`; tasks stored in NPZ files are left out."""
        folder, path, card_path = self.path("images"), self.path("metadata.jsonl"), self.path("README.md")
        names = sorted(image.relative_to(folder).as_posix()[: -len(".png")] for image in folder.rglob("*.png"))
        tasks = [task for task, spec in self.stored.items() if not is_float(spec)]
        with whole_output(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
            for name in (name for name in names if not _why_not_listed(name) and self.is_finished(name)):
                paths = {"image": self.image_path(name), **{task: self.map_path(task, name) for task in tasks}}
                files = {f"{column}_file_name": each.relative_to(self.path()).as_posix() for column, each in paths.items()}
                file.write(json.dumps({"id": name, **files}) + "\n")
        card = DatasetCard(card_path.read_text(encoding="utf-8"))
        contents = hashlib.sha256(path.read_bytes() + json.dumps(card.data.to_dict()[SETTINGS_KEY]).encode()).hexdigest()[:16]
        data_files = [{"split": "train", "path": ["metadata.jsonl", "images/**", "maps/**"]}]
        # `datasets` (5.2) identifies its cached copy of a local directory by the directory's last name and this configuration alone.
        card.data["configs"] = [{"config_name": "default", "data_files": data_files, "description": f"contents {contents}"}]
        with whole_output(card_path) as unfinished:
            unfinished.write_text(str(card), encoding="utf-8")


def _why_not_listed(name: str) -> str | None:
    """Why `datasets` could not read a metadata.jsonl with a name, or would look for another file."""
    if not name.isascii() and name != name.encode(errors="replace").decode():
        return "is not UTF-8"
    return "contains a backslash" if "\\" in name else None


def _is_foreign(path: Path) -> bool:
    """Whether a file in a directory without a card comes from anything but an interrupted prediction run."""
    return path.suffix != UNFINISHED and path.name not in (LOCK_FILE, HOLDER_FILE)


def _shown(value: Any) -> Any:
    """A value of the card for messages: of task entries, which are long, only the names."""
    is_entries = isinstance(value, list) and all(isinstance(each, dict) and "name" in each for each in value)
    return [entry["name"] for entry in value] if is_entries else value


def _refuse_others(directory: Path, earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    # Convert through JSON, because the card's header was converted through YAML.
    other = [key for key, value in wanted.items() if json.dumps(earlier.get(key)) != json.dumps(value)]
    if other:
        pairs = {key: (_shown(earlier.get(key)), _shown(wanted[key])) for key in other}
        differing = "; ".join(f"{key}: {there!r} there, {now!r} now" for key, (there, now) in pairs.items() if there != now)
        raise ValueError(
            f"{directory} contains predictions that differ in {other}{f' ({differing})' if differing else ''}; give another --output_dir, "
            "or replace them with --overwrite"
        )


__all__ = ["PredictionDirectory"]
