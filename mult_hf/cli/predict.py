"""Predict maps of images, videos and data sets, and write them to files from which they can be read back in their units.

    mult-hf predict photo.jpg clip.mp4 --output_dir outputs/predictions
    mult-hf predict 'scans/**/*.tif' --model me/mult --tile 512
    accelerate launch -m mult_hf predict --model me/mult --dataset me/rooms --split test --flip
    mult-hf predict --model me/mult --inputs /shared/images --engine ray --ray_address auto

`--output_dir` receives `maps/TASK/NAME.png` (or .npz), `panels/NAME.jpg`, and a `README.md` whose header describes how each map is
stored (docs/prediction.md). To continue an interrupted run, repeat the command. Failed inputs are listed at the end with their
reasons, and the exit status is then 1.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from mult_hf import DEFAULT_CHECKPOINT, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.cores import available_cores, threads_per_process
from mult_hf.data.ray_cluster import import_ray, ray_cluster
from mult_hf.data.schema import is_url, load_rows
from mult_hf.evaluation.cards import public_name, trained_on
from mult_hf.inference.digests import digest, digest_of_values
from mult_hf.inference.directory_lock import exclusive_run
from mult_hf.inference.loading import load_processor, load_whole_model
from mult_hf.inference.object_store import ObjectSource, find_objects
from mult_hf.inference.output import PredictionDirectory
from mult_hf.inference.predictor import Predictor, TestTimeAugmentation, predict
from mult_hf.inference.run import MAX_SIDE, MIN_SIDE, Outcomes, PredictionRun
from mult_hf.inference.runtimes import RUNTIMES, check_runtime, with_runtime
from mult_hf.inference.scale import MOST_ZOOM, ViewSize, off_scale
from mult_hf.inference.sources import DivisibleSource, FileSource, RowSource, find_files
from mult_hf.inference.tiling import Layout, tiled
from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import TaskSpec

from .arguments import MAX_WORKERS, check_bounds, flag, parse_arguments
from .camera_flags import check_effect, check_field_of_view, field_of_view_flag
from .errors import did_you_mean
from .runtime_flags import dtype_flag, runtime_flag
from .signals import exiting_on_sigterm

PROCESSES, RAY = "processes", "ray"
"""Values of --engine."""

OWN_SIZE = "own"
"""Value of --image_size for images at their own size."""

BATCH_SIZE = 8
"""Images, or tiles on a GPU, per batch by default."""

TILES_ON_CPU = 4
"""Tiles per batch on a CPU by default: more need more memory, and were no faster (docs/benchmark.md)."""

MAX_REASON = 300
"""Longest reason for a failed input, in characters."""


@dataclass
class PredictionArguments:
    """Inputs, model and method of a prediction; each field is a flag, and a key of the file given by `--config`."""

    BARE_WORDS: ClassVar[str] = "inputs stand before all flags, or after --inputs"
    HELP_GROUPS: ClassVar[dict[str, str]] = {"model": "model", "inputs": "inputs", "image_size": "method", "output_dir": "outputs"}

    model: str = flag(DEFAULT_CHECKPOINT, "directory or Hub id of the model; by default the one in the package")
    config: Path | None = flag(None, "YAML or JSON file of flags; flags on the command line take precedence")
    # Inputs
    inputs: list[str] | None = flag(
        None, "images, videos, folders (searched recursively), quoted patterns with * and **, or URLs of these (s3://)"
    )
    dataset: str | None = flag(None, "instead of --inputs: local directory or Hub id of a data set with a column `image`")
    split: str = flag("test", "split of the data set")
    frame_step: int = flag(1, "for videos, predict only frames whose number is a multiple of this")
    tasks: list[str] | None = flag(None, "names of tasks to predict; by default all tasks of the model")
    # Method
    image_size: list[str] | None = flag(
        None, "side, or height and width, that images, or tiles, are resized to for the model; `own` keeps their size; "
        "by default the size of the model's processor, which is that of its training images"
    )  # fmt: skip
    tile: int | None = flag(None, "cut images into overlapping tiles of this many image pixels; no tiles by default")
    field_of_view: float | None = field_of_view_flag("neither in their EXIF nor in --dataset")
    flip: bool = flag(False, "average with the predictions of the mirrored image")
    batch_size: int | None = flag(
        None, f"images, or tiles of one image, per batch and process; by default {BATCH_SIZE}, or {TILES_ON_CPU} tiles on a CPU"
    )
    num_workers: int = flag(0, "worker processes that read images, per predicting process")
    runtime: str = runtime_flag()
    dtype: str = dtype_flag()
    cpu_threads: int | None = flag(
        None, "threads per process without accelerator; by default the available CPU cores, shared between processes"
    )
    engine: str = flag(
        PROCESSES,
        "processes: this process, and those of `accelerate launch`; ray: a Ray cluster (docs/prediction.md)",
        choices=(PROCESSES, RAY),
    )
    ray_address: str | None = flag(None, "address of the Ray cluster, such as auto; by default one is started on this machine")
    ray_workers: int | None = flag(None, "predicting processes on Ray; by default one per GPU or, without GPUs, as many as CPU cores allow")
    # Outputs
    output_dir: str = flag("outputs/predictions", "directory of all outputs, or a URL in an object store (s3://)")
    panels: bool = flag(True, "write a JPEG per image that shows it next to its maps")
    keep_images: bool = flag(False, "also write the images, so that the directory is a data set to train on")
    max_side: int | None = flag(None, "longest side of maps in pixels; maps of larger images are smaller; by default that of each image")
    overwrite: bool = flag(False, "first remove the predictions of an earlier run with other settings")

    def __post_init__(self) -> None:
        if (self.inputs is None) == (self.dataset is None):
            raise ValueError(
                f"--inputs is {self.inputs}, --dataset is {self.dataset}; give one of the two: `mult-hf predict photo.jpg` (inputs "
                "stand before all flags), --inputs photo.jpg, or --dataset my-rooms"
            )
        counts = ["frame_step", "batch_size", "cpu_threads", "max_side", "ray_workers"]
        check_bounds(self, {0: ["num_workers"], 1: counts}, {MAX_WORKERS: ["num_workers"]})
        check_field_of_view(self.field_of_view)
        if self.engine != RAY and (self.ray_address or self.ray_workers):
            raise ValueError(f"--ray_address is {self.ray_address}, --ray_workers is {self.ray_workers}, without --engine {RAY}; add it")
        check_runtime(self.runtime, self.dtype)
        size = self.image_size
        if size == [OWN_SIZE] and not RUNTIMES[self.runtime].takes_any_size:
            raise ValueError(f"--runtime {self.runtime} takes a minute for each size; give a size in place of --image_size {OWN_SIZE}")
        if size not in (None, [OWN_SIZE]) and not (len(size) in (1, 2) and all(_is_side(word) for word in size)):
            raise ValueError(
                f"--image_size is {size}; give a side, or height and width, of at least {MIN_SIDE} pixels and at most {MAX_SIDE}, or "
                f"`{OWN_SIZE}`"
            )

    def view(self, trained: ViewSize | None) -> ViewSize | None:
        """Size to which images or tiles are resized; None if they keep theirs.

        Args:
            trained: the size of the training images, if the model's processor states it.
        """
        if self.image_size == [OWN_SIZE]:
            return None
        return trained if self.image_size is None else ViewSize(int(self.image_size[0]), int(self.image_size[-1]))


def _is_side(word: str) -> bool:
    return word.isdecimal() and len(word) < 10 and MIN_SIDE <= int(word) <= MAX_SIDE


class LoadedModel(NamedTuple):
    """A model, and how images are prepared for it.

    Args:
        model: the model in evaluation mode.
        processor: prepares images for the predictor. If images are cut into tiles, the predictor resizes the tiles itself.
        view: size to which images or tiles are resized; None if they keep theirs.
        trained: the size of the training images; None if the model's processor does not resize.
    """

    model: MulTForMultiTaskDensePrediction
    processor: MulTImageProcessor
    view: ViewSize | None
    trained: ViewSize | None


def load_model(arguments: PredictionArguments) -> LoadedModel:
    """Load the model and its processor.

    Raises:
        ValueError: if the model lacks a requested task, or weights (see `load_whole_model`), or a flag has no effect on it.
    """
    model = load_whole_model(arguments.model)
    missing = [task for task in arguments.tasks or [] if task not in model.task_names]
    if missing:
        raise refusal(f"--tasks has {missing}; {arguments.model} has {model.task_names}{did_you_mean(missing, model.task_names)}")
    requested = requested_specs(arguments, model).values()
    processor = load_processor(arguments.model, model.config, requested, tasks=model.config.tasks)
    check_effect(arguments.field_of_view, arguments.model, processor, requested)
    trained = ViewSize.of_processor(processor.size) if processor.do_resize else None
    view = arguments.view(trained)
    if arguments.tile is not None and view is not None and view is trained and processor.size.get("longest_edge"):
        raise refusal(
            f"--tile is given, and {arguments.model} limits the longer side of images, too: {dict(processor.size)}; leave the flag out, or "
            "give a size by --image_size"
        )
    processor = load_processor(
        arguments.model,
        tasks=model.config.tasks,
        do_resize=view is not None and arguments.tile is None,
        size=None if view in (None, trained) else {"height": view.height, "width": view.width},
        assumed_field_of_view=arguments.field_of_view,
    )
    model = with_runtime(model, arguments.runtime, arguments.dtype, arguments.tasks, torch.get_num_threads())
    return LoadedModel(model, processor, view, trained)


def requested_specs(arguments: PredictionArguments, model: MulTForMultiTaskDensePrediction) -> dict[str, TaskSpec]:
    """Entries of the tasks to predict by name."""
    return {task: spec for task, spec in model.config.task_specs.items() if arguments.tasks is None or task in arguments.tasks}


def open_source(arguments: PredictionArguments, accelerator: Accelerator) -> tuple[DivisibleSource, str]:
    """Open the inputs; returns them and the directory that their names are relative to."""
    if arguments.dataset is not None:
        with accelerator.main_process_first():
            return RowSource(load_rows(arguments.dataset, arguments.split)), f"{arguments.dataset}, {arguments.split}"
    if any(map(is_url, arguments.inputs or [])):
        objects = find_objects(arguments.inputs or [])
        _report_ignored(objects.ignored, accelerator)
        return ObjectSource(objects), objects.root
    found = find_files(arguments.inputs or [], leave_out=Path(arguments.output_dir))
    _report_ignored(found.ignored, accelerator)
    return FileSource(found, arguments.frame_step), str(found.root).replace(str(Path.home()), "~")


def _report_ignored(ignored: Counter[str], accelerator: Accelerator) -> None:
    if ignored:
        counts = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in ignored.most_common())
        accelerator.print(f"files in folders that are neither images nor videos: {counts}")


def make_predictor(arguments: PredictionArguments, loaded: LoadedModel, *, show_progress: bool = False) -> Predictor:
    """Make the predictor for the flags. Images that are cut into tiles stay on their device; the tiles are moved to the model's.

    Args:
        arguments: the flags.
        loaded: the model.
        show_progress: whether to show a progress bar of each image's tiles.
    """
    augmentation = TestTimeAugmentation(flip=True) if arguments.flip else None
    model = loaded.model

    def on_device(pixel_values: Tensor) -> dict[str, Tensor]:
        return predict(model, pixel_values.to(model.device), augmentation, arguments.tasks)

    if arguments.tile is None:
        return on_device
    options = {"canonical_camera": loaded.processor.canonical_focal_length is not None, "show_progress": show_progress}
    tiles = arguments.batch_size or (TILES_ON_CPU if model.device.type == "cpu" else BATCH_SIZE)
    return tiled(on_device, model.config.task_specs, arguments.tile, loaded.view, tiles, **options)


def scale_remark(arguments: PredictionArguments, loaded: LoadedModel, size: tuple[int, int]) -> str | None:
    """A note if an image of this (height, width) is shown to the model at a scale far from that of its training images."""
    if loaded.trained is None:
        return None
    whole = size if loaded.view is None else loaded.view.of_image(size)
    remark = off_scale(whole, loaded.trained.of_image(size))
    if remark is not None:
        return f"{remark}; leave --image_size out"
    if arguments.tile is None or loaded.view is None:
        return None
    zoom = Layout.of_image(size, arguments.tile, loaded.view).zoom
    if zoom <= MOST_ZOOM:
        return None
    return f"tiles magnify objects {zoom:.2g} times, and more than {MOST_ZOOM:g} times does not help; give a larger --tile"


def prediction_settings(arguments: PredictionArguments, loaded: LoadedModel, origin: str) -> dict[str, Any]:
    """JSON values that the predictions depend on; a directory contains predictions with one set of them."""
    return {
        "weights": digest(loaded.model),
        "configuration": digest_of_values(loaded.model.config.to_dict()),
        "preprocessing": digest_of_values(loaded.processor.to_dict()),
        "names_below": origin,
        "image_size": OWN_SIZE if loaded.view is None else loaded.view.to_json(),
        "assumed_field_of_view": loaded.processor.assumed_field_of_view,
        "tile": arguments.tile,
        "flip": arguments.flip,
        "max_side": arguments.max_side,
        "numbers": None if arguments.dtype == "float32" else arguments.dtype,
    }


def prediction_directory(arguments: PredictionArguments, loaded: LoadedModel) -> PredictionDirectory:
    """The output directory."""
    specs = requested_specs(arguments, loaded.model)
    return PredictionDirectory(arguments.output_dir, specs, arguments.panels, arguments.keep_images, arguments.max_side)


def make_run(arguments: PredictionArguments, loaded: LoadedModel, *, show_progress: bool) -> PredictionRun:
    """The run that predicts images in one process."""
    return PredictionRun(
        make_predictor(arguments, loaded, show_progress=show_progress),
        loaded.processor,
        prediction_directory(arguments, loaded),
        batch_size=1 if arguments.tile else arguments.batch_size or BATCH_SIZE,
        num_workers=arguments.num_workers,
        min_side=1 if arguments.tile and loaded.view else MIN_SIDE,
        remark=partial(scale_remark, arguments, loaded),
        show_progress=show_progress,
    )


def make_run_on_ray(arguments: PredictionArguments) -> PredictionRun:
    """The run that predicts images in one process on Ray, with a model that is loaded there."""
    import_module("mult_hf.model.registration")  # which `mult-hf` does in its own process
    torch.set_num_threads(arguments.cpu_threads or 1)
    loaded = load_model(arguments)
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return make_run(arguments, loaded, show_progress=False)


PredictSource = Callable[[DivisibleSource], list[Outcomes]]
"""Predicts all images of a source; returns the outcomes of every process."""


def in_processes(arguments: PredictionArguments, loaded: LoadedModel, accelerator: Accelerator) -> PredictSource:
    """Predict in this process, and in those that Accelerate started."""
    loaded.model.to(accelerator.device)
    run = make_run(arguments, loaded, show_progress=accelerator.is_main_process)
    return lambda source: gather_object([run(source, accelerator.process_index, accelerator.num_processes)])


def on_ray(arguments: PredictionArguments, loaded: LoadedModel, accelerator: Accelerator) -> PredictSource:
    """Predict on Ray.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: if Accelerate started several processes.
    """
    purpose = f"--engine {RAY}"
    import_ray(RAY, purpose)
    if accelerator.num_processes > 1:
        raise ValueError(f"{purpose} starts its own processes, but Accelerate started {accelerator.num_processes}; start one")
    from mult_hf.inference.ray_engine import RayWorkers, predict_on_ray

    directory = prediction_directory(arguments, loaded)
    directory = replace(directory, directory=str(directory.path().resolve()))  # processes on Ray have other working directories
    model = str(Path(arguments.model).resolve()) if Path(arguments.model).is_dir() else arguments.model
    make = partial(make_run_on_ray, replace(arguments, model=model, output_dir=str(directory.directory)))

    def predict_source(source: DivisibleSource) -> list[Outcomes]:
        with ray_cluster(arguments.ray_address, available_cores(), purpose) as cluster:
            workers = RayWorkers.of_cluster(cluster, arguments.ray_workers, arguments.cpu_threads)
            return [predict_on_ray(make, source, directory, workers, arguments.batch_size or BATCH_SIZE)]

    return predict_source


ENGINES: dict[str, Callable[[PredictionArguments, LoadedModel, Accelerator], PredictSource]] = {PROCESSES: in_processes, RAY: on_ray}
"""Engines by the value of --engine."""


def summarize(outcomes: Sequence[Outcomes], output_dir: str) -> str:
    """One line per failed input, and a line of totals."""
    failed = sorted(each for outcome in outcomes for each in outcome.failed)
    remarks = sum((outcome.remarks for outcome in outcomes), Counter())
    lines = []
    for remark, count in remarks.most_common(1):
        others = remarks.total() - count
        lines.append(f"note for {_images(count)}{f' (and others on scale for {others} more)' if others else ''}: {remark}")
    lines += [
        f"note for {_images(count)}: no focal length is known; metres assume a field of view of {degrees:g} degrees, see --field_of_view"
        for degrees, count in sum((outcome.assumed for outcome in outcomes), Counter()).items()
    ]
    lines += [_printable(f"not predicted: {name}: {' '.join(reason.split())[:MAX_REASON]}") for name, reason in failed]
    done, skipped = sum(each.done for each in outcomes), sum(each.skipped for each in outcomes)
    return "\n".join([*lines, f"written to {output_dir}: {done} predicted, {skipped} predicted before, {len(failed)} failed"])


def _images(count: int) -> str:
    """A number of images in words."""
    return "1 image" if count == 1 else f"{count} images"


def _printable(text: str) -> str:
    """Replace line breaks, and bytes that are not text and cannot be printed, in a file name."""
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)


def with_inputs_named(argv: Sequence[str]) -> list[str]:
    """The command line with `--inputs` before the inputs that stand before all flags.

    Examples:
        >>> with_inputs_named(["a.jpg", "b.jpg", "--flip"])
        ['--inputs', 'a.jpg', 'b.jpg', '--flip']

    Raises:
        ValueError: if there are such inputs, and `--inputs` too.
    """
    inputs = [*takewhile(lambda word: not word.startswith("-"), argv)]
    if inputs and any(word.split("=")[0] in ("--in", "--inp", "--inpu", "--input", "--inputs") for word in argv):
        raise refusal(f"inputs stand before the flags, {' '.join(inputs)}, and after --inputs; give them in one place")
    return ["--inputs", *argv] if inputs else [*argv]


def main(argv: Sequence[str] | None = None) -> int:
    """Find, predict, write; returns 1 if an input failed.

    Args:
        argv: the command line; by default that of this process.

    Raises:
        ValueError: if flags, inputs, model and output directory are incompatible, or another run is writing to the output
            directory.
        OSError: if the model cannot be loaded, or the disk is full.
    """
    argv = with_inputs_named(sys.argv[1:] if argv is None else argv)
    about = f"{__doc__.partition(chr(10))[0]} Inputs stand before all flags: mult-hf predict photo.jpg folder clip.mp4 --output_dir maps"
    arguments = parse_arguments(PredictionArguments, argv, about, prog="mult-hf predict")
    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        torch.set_num_threads(threads_per_process(arguments.cpu_threads, accelerator.num_processes))
    source, origin = open_source(arguments, accelerator)  # first, because loading a large model takes longer
    loaded = load_model(arguments)
    directory = prediction_directory(arguments, loaded)
    predict_source = ENGINES[arguments.engine](arguments, loaded, accelerator)
    with exiting_on_sigterm(), exclusive_run(arguments.output_dir, main_process=accelerator.is_main_process):
        if accelerator.is_main_process:
            settings = prediction_settings(arguments, loaded, origin)
            directory.claim(public_name(arguments.model), settings, overwrite=arguments.overwrite)
        accelerator.wait_for_everyone()
        outcomes = predict_source(source)
        if accelerator.is_main_process and arguments.keep_images:
            directory.write_metadata()
    if any(outcome.done or outcome.skipped for outcome in outcomes):
        pictures = ", and pictures of them under panels/" if arguments.panels else ""
        hint = f"maps are under {arguments.output_dir}/maps/TASK/{pictures}; the README.md there says how to read them"
        accelerator.print(hint, file=sys.stderr)
        if data := trained_on(arguments.model):
            accelerator.print(f"the model was trained on {data}; expect less of other scenes", file=sys.stderr)
    accelerator.print(summarize(outcomes, arguments.output_dir))
    accelerator.end_training()
    return int(any(outcome.failed for outcome in outcomes))
