"""Predict maps of photos, videos and data sets, and write them as files that read back exactly as said.

    python examples/predict.py --model outputs/mult-rooms --inputs photos clip.mp4 --output_dir outputs/predictions
    accelerate launch examples/predict.py --model me/mult --dataset me/rooms --split test --flip
    mult-hf predict --model me/mult --inputs 'scans/**/*.tif' --tile 512      # the same program, where the package is installed

Written to `--output_dir`: `maps/TASK/NAME.png` (or .npz), `panels/NAME.jpg`, and a `README.md` whose header says how each map is stored
(docs/prediction.md). Run the same command again after an interruption: what is finished is not done again. Photos that cannot
be read are listed at the end, and the exit status is then 1.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mult_hf import DEFAULT_CHECKPOINT, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli.arguments import flag, parse_arguments
from mult_hf.data.schema import load_rows
from mult_hf.evaluation.cards import public_name
from mult_hf.inference.output import Results, digest
from mult_hf.inference.predictor import Predictor, TestTimeAugmentation, predict
from mult_hf.inference.sources import FailedInput, FileSource, ImageStream, RowSource, SkippedInput, Source, by_size, find_files
from mult_hf.inference.tiling import tiled

OWN_SIZE = "own"
"""Value of --image_size for photos as they are."""


@dataclass
class PredictionArguments:
    """What is predicted and how; each field is a flag, and a key of the file that `--config` names."""

    model: str = flag(DEFAULT_CHECKPOINT, "directory or Hub id of the model; the small one that comes with the package by default")
    config: Path | None = flag(None, "YAML or JSON file of flags; those on the command line win")
    # What
    inputs: list[str] | None = flag(None, "photos, videos, folders (with all that is below them), and quoted patterns with * and **")
    dataset: str | None = flag(None, "in place of inputs: local directory or Hub id of a data set with a column `image`")
    split: str = flag("test", "split of the data set")
    frame_step: int = flag(1, "of a video every frame whose number is a multiple of this")
    tasks: list[str] | None = flag(None, "names of tasks to predict; all of the model by default")
    # How
    image_size: list[str] | None = flag(
        None, "photos are brought to this side, or height and width, for the model; `own` leaves them as they are; "
        "by default the size of the model's processor, or their own with --tile"
    )  # fmt: skip
    tile: int | None = flag(None, "side of overlapping tiles that photos are cut into, in pixels; not cut by default")
    flip: bool = flag(False, "average with the predictions of the mirrored photo")
    batch_size: int = flag(8, "photos, or tiles of one photo, at once in each process")
    num_workers: int = flag(0, "processes that read photos, for each process that predicts")
    cpu_threads: int | None = flag(None, "threads a process without accelerator; all cores, shared, by default")
    # Results
    output_dir: Path = flag(Path("outputs/predictions"), "where everything is written")
    panels: bool = flag(True, "a picture of each photo beside its maps")
    keep_images: bool = flag(False, "write the photos, too, so that the directory is a data set to train on")
    overwrite: bool = flag(False, "remove the results of an earlier run with other settings first")

    def __post_init__(self) -> None:
        if (self.inputs is None) == (self.dataset is None):
            raise ValueError(f"--inputs is {self.inputs}, --dataset is {self.dataset}; give one of the two")
        for name, least in (("frame_step", 1), ("batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least {least}")
        size = self.image_size
        if size not in (None, [OWN_SIZE]) and not (len(size) in (1, 2) and all(word.isdigit() and int(word) >= 32 for word in size)):
            raise ValueError(f"--image_size is {size}; give a side, or height and width, of at least 32 pixels, or `{OWN_SIZE}`")

    @property
    def resizing(self) -> dict[str, Any]:
        """How the processor differs from the model's own."""
        if self.image_size == [OWN_SIZE] or (self.image_size is None and self.tile is not None):
            return {"do_resize": False}
        return {} if self.image_size is None else {"size": {"height": int(self.image_size[0]), "width": int(self.image_size[-1])}}


class Prepared(NamedTuple):
    """A photo that was read.

    Args:
        name: of its results.
        picture: RGB.
        pixel_values: what the model sees, (3, height, width).
    """

    name: str
    picture: Image.Image
    pixel_values: Tensor


def prepare(processor: MulTImageProcessor, name: str, picture: Image.Image) -> Prepared | FailedInput:
    """A photo for the model."""
    pixel_values = processor(picture, return_tensors="pt")["pixel_values"][0]
    if min(pixel_values.shape[-2:]) < 32:  # only where it keeps its own size
        return FailedInput(
            name, f"{picture.width} x {picture.height} pixels are too small for the model, which needs 32; give --image_size"
        )
    return Prepared(name, picture, pixel_values)


def load_model(arguments: PredictionArguments) -> tuple[MulTForMultiTaskDensePrediction, MulTImageProcessor]:
    """The model and its processor.

    Raises:
        ValueError: if the model lacks a task that was asked for.
    """
    model = MulTForMultiTaskDensePrediction.from_pretrained(arguments.model).eval()
    missing = [task for task in arguments.tasks or [] if task not in model.task_names]
    if missing:
        raise ValueError(f"--tasks has {missing}; {arguments.model} has {model.task_names}")
    return model, MulTImageProcessor.from_pretrained(arguments.model, tasks=model.config.tasks, **arguments.resizing)


def open_source(arguments: PredictionArguments, accelerator: Accelerator) -> tuple[Source, str]:
    """What is to be predicted, and in words what its names are relative to."""
    if arguments.dataset is not None:
        with accelerator.main_process_first():
            return RowSource(load_rows(arguments.dataset, arguments.split)), f"{arguments.dataset}, {arguments.split}"
    found = find_files(arguments.inputs, leave_out=arguments.output_dir)
    if found.ignored:
        counts = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in found.ignored.most_common())
        accelerator.print(f"files in folders that are neither photos nor videos: {counts}")
    return FileSource(found, arguments.frame_step), str(found.root).replace(str(Path.home()), "~")


def make_predictor(arguments: PredictionArguments, model: MulTForMultiTaskDensePrediction) -> Predictor:
    """From pixels to predictions, as the flags say. Photos that are cut into tiles stay where they are, tiles go to the model."""
    augmentation = TestTimeAugmentation(flip=True) if arguments.flip else None

    def on_device(pixel_values: Tensor) -> dict[str, Tensor]:
        return predict(model, pixel_values.to(model.device), augmentation, arguments.tasks)

    return on_device if arguments.tile is None else tiled(on_device, model.config.task_specs, arguments.tile, arguments.batch_size)


def only_prepared(outcomes: Iterable[Prepared | FailedInput | SkippedInput], broken: list[FailedInput], bar: tqdm) -> Iterator[Prepared]:
    """What is left to do; broken photos are noted, and what was done before does not count for the time left."""
    for outcome in outcomes:
        if isinstance(outcome, Prepared):
            yield outcome
        elif isinstance(outcome, FailedInput):
            broken.append(outcome)
            bar.update()
        else:
            bar.total -= 1


def predict_batch(predictor: Predictor, processor: MulTImageProcessor, results: Results, photos: list[Prepared]) -> None:
    """Predict photos of one size, and write their maps at each photo's own size."""
    predictions = predictor(torch.stack([photo.pixel_values for photo in photos]))
    for number, photo in enumerate(photos):  # one at a time, since maps may be much larger than predictions
        size = (photo.picture.height, photo.picture.width)
        (maps,) = processor.post_process({task: maps[number : number + 1] for task, maps in predictions.items()}, [size])
        results.write(photo.name, photo.picture, {task: each["prediction"] for task, each in maps.items()})


def predict_share(stream: ImageStream, to_files: Callable[[list[Prepared]], None], arguments: PredictionArguments) -> list[FailedInput]:
    """Predict this process's photos, batch by batch; returns those that could not be read."""
    broken: list[FailedInput] = []
    loader = DataLoader(stream, batch_size=None, num_workers=arguments.num_workers)
    total = len(stream.source) // stream.processes  # of videos only an estimate
    with tqdm(total=total, desc="predicting", unit="photo", disable=stream.process > 0) as bar:
        for photos in by_size(only_prepared(loader, broken, bar), 1 if arguments.tile else arguments.batch_size):
            to_files(photos)
            bar.update(len(photos))
    return broken


def main(argv: Sequence[str] | None = None) -> int:
    """Find, predict, write; `argv` are those of the command line by default. Returns 1 if a photo could not be read."""
    arguments = parse_arguments(PredictionArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        torch.set_num_threads(arguments.cpu_threads or max(1, (os.cpu_count() or 1) // accelerator.num_processes))
    model, processor = load_model(arguments)
    source, origin = open_source(arguments, accelerator)
    specs = {task: spec for task, spec in model.config.task_specs.items() if arguments.tasks is None or task in arguments.tasks}
    results = Results(arguments.output_dir, specs, arguments.panels, arguments.keep_images)
    if accelerator.is_main_process:
        size = [processor.size["height"], processor.size["width"]] if processor.do_resize else OWN_SIZE
        settings = {"weights": digest(model), "names_below": origin, "image_size": size, "tile": arguments.tile, "flip": arguments.flip}
        results.claim(public_name(arguments.model), settings, overwrite=arguments.overwrite)
    accelerator.wait_for_everyone()

    share = accelerator.process_index, accelerator.num_processes
    stream = ImageStream(source, partial(prepare, processor), results.is_finished, *share)
    predictor = make_predictor(arguments, model.to(accelerator.device))
    broken = gather_object(predict_share(stream, partial(predict_batch, predictor, processor, results), arguments))
    if accelerator.is_main_process and arguments.keep_images:
        results.write_metadata()
    for name, reason in sorted(broken):
        accelerator.print(f"not predicted: {name}: {reason}")
    accelerator.print(f"written to {arguments.output_dir}" + (f"; {len(broken)} could not be read" if broken else ""))
    accelerator.end_training()
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
