"""A training run from start to end."""

import shlex
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset, IterableDataset
from torch.nn import Parameter

from mult_hf.data.hub import create_repository
from mult_hf.data.row_errors import SOURCE_COLUMN
from mult_hf.data.schema import FOCAL_LENGTH, missing_columns
from mult_hf.evaluation.compatibility import check_same_entries
from mult_hf.evaluation.loop import check_data
from mult_hf.inference.directory_lock import exclusive_run
from mult_hf.model.cameras import check_same_camera
from mult_hf.model.entry_fields import refusal
from mult_hf.model.image_processing_base import MulTProcessingMixin
from mult_hf.model.losses import check_loss
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.tasks import TaskSpec
from mult_hf.model.visualization import check_colormap

from .arguments import TrainingArguments
from .checkpoints import BEST, check_new_run, clear_for_new_run, find_checkpoint, list_checkpoints, restore_replaced
from .distributed import make_accelerator
from .loop import TrainingLoop
from .publishing import upload
from .results import RESULTS, Provenance, save_results


def train(
    model: MulTForMultiTaskDensePrediction,
    processor: MulTProcessingMixin,
    training_rows: Dataset | IterableDataset,
    validation_rows: Dataset,
    arguments: TrainingArguments,
    provenance: Provenance | None = None,
    *,
    tasks_by_source: Mapping[str, Mapping[str, TaskSpec]] | None = None,
    baseline_rows: Dataset | None = None,
    contents: str | None = None,
) -> dict[str, Any]:
    """Train a model, evaluate it against the constant baseline, and save everything to `arguments.output_dir` (docs/training.md).

    The same seed gives the same weights. Call `accelerate.utils.set_seed(arguments.seed)` before you build a new model, so that its
    initial weights are the same too.

    Args:
        model: the model to train, in place.
        processor: image processor with the model's tasks and a fixed image size.
        training_rows: rows with `image` and one column per task; a missing column is unknown everywhere. Streamed rows must not have a
            shuffle buffer, which an interruption would empty; they are shuffled here (docs/training.md#streaming).
        validation_rows: rows of the same form for evaluation; of one data set of a mixture, or of all with the column `source`.
        arguments: settings of the run.
        provenance: origin of data and weights, for the model card.
        tasks_by_source: for a mixture of data sets, the entries of each, see [`MultiTaskCollator`]. Empty if the rows are not of one,
            but have a column `source` for something else.
        baseline_rows: rows for the constant baseline; the training rows by default, or the first ones of streamed rows.
        contents: of streamed rows: a description of their files, with which a resumed run detects changes.

    Returns:
        The contents of `metrics.json`, see [`save_results`][mult_hf.training.results.save_results].

    Raises:
        ValueError: if rows, model, processor and settings are incompatible, `output_dir` has a model or checkpoints already, or another
            run is writing to it.
        FloatingPointError: if a loss or gradient is not finite; the message names the samples and the last good checkpoint.

    Examples:
        ```python
        from accelerate.utils import set_seed
        from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
        from mult_hf.data.schema import load_rows, load_task_entries
        from mult_hf.training.arguments import TrainingArguments
        from mult_hf.training.run import train

        set_seed(0)
        tasks = load_task_entries("my-rooms")
        rows = load_rows("my-rooms")
        model = MulTForMultiTaskDensePrediction(MulTConfig(tasks=tasks))
        processor = MulTImageProcessor(size={"height": 224, "width": 224}, tasks=tasks)
        train(model, processor, rows["train"], rows["validation"], TrainingArguments(max_steps=1000, learning_rate=2e-3))
        ```
    """
    provenance = provenance or Provenance()
    _check_container("training_rows", training_rows, (Dataset, IterableDataset))
    _check_container("validation_rows", validation_rows, (Dataset,))
    specs = processor.task_specs
    check_same_entries(model.config.task_specs, specs)
    for spec in specs.values():
        check_loss(spec)
        check_colormap(spec)  # needed only by the panel at the end; activations and metrics are checked where they are built
    missing = missing_columns(training_rows.column_names or [], specs)
    accelerator = make_accelerator(arguments)
    if tasks_by_source is None and SOURCE_COLUMN in (training_rows.column_names or []):
        accelerator.print(
            f"the training rows have a column {SOURCE_COLUMN}, as those of a mixture: all are read as the processor's entries say; give "
            "tasks_by_source if the data sets store their maps in different ways"
        )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with exclusive_run(arguments.output_dir, main_process=accelerator.is_main_process), _trainable_afterwards(trainable):
        loop = partial(TrainingLoop, tasks_by_source=tasks_by_source, baseline_rows=baseline_rows, contents=contents)
        return _train(accelerator, model, processor, training_rows, validation_rows, arguments, provenance, missing, loop)


def _check_container(name: str, rows: Any, kinds: tuple[type, ...]) -> None:
    """Refuse what are no rows of one split, which would fail far from its cause.

    Raises:
        ValueError: naming what came and what is allowed.
    """
    if isinstance(rows, Mapping):
        raise refusal(f"{name} is a {type(rows).__name__} with the splits {list(rows)}; give one of them")
    if not isinstance(rows, kinds):
        if isinstance(rows, IterableDataset):
            check_data(rows, 1)  # says how rows of a stream are taken
        allowed = " or ".join(f"datasets.{kind.__name__}" for kind in kinds)
        raise refusal(f"{name} is a {type(rows).__name__}; give a {allowed}, for example datasets.Dataset.from_list(rows, features=...)")


@contextmanager
def _trainable_afterwards(parameters: Iterable[Parameter]) -> Iterator[None]:
    """Let parameters be trained again after a block, in which an encoder with a learning rate of zero is frozen."""
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _train(
    accelerator: Accelerator,
    model: MulTForMultiTaskDensePrediction,
    processor: MulTProcessingMixin,
    training_rows: Dataset | IterableDataset,
    validation_rows: Dataset,
    arguments: TrainingArguments,
    provenance: Provenance,
    missing: list[str],
    make_loop: Callable[..., TrainingLoop],
) -> dict[str, Any]:
    """The run inside its locked directory; arguments as for [`train`], the missing columns, and what makes the loop of the others."""
    specs = processor.task_specs
    repository = _claim_destinations(arguments, accelerator)
    set_seed(arguments.seed, device_specific=True)  # processes drop different paths

    loop = make_loop(arguments, accelerator, model, processor, training_rows, validation_rows)
    missing = [task for task in missing if task not in (arguments.targets_of_views or ())]
    loop.untaught = missing
    frozen = [task for task in specs if not _learns(model, task)]
    loop.kept = [task for task in specs if task in missing or task in frozen]
    if unknown := [task for task in missing if task not in frozen]:
        accelerator.print(f"the training data has no column {' or '.join(unknown)}: unknown everywhere, and not learnt")
    needs_camera = any(processor.depends_on_focal_length(spec) for task, spec in specs.items() if task not in loop.kept)
    if needs_camera and FOCAL_LENGTH not in (training_rows.column_names or []):
        accelerator.print(
            f"the training data has no column {FOCAL_LENGTH}: the model learns depth for a canonical camera, so the focal length in each "
            f"image's EXIF is used, or else a field of view of {processor.assumed_field_of_view:g} degrees is assumed"
        )
    count = "streamed" if isinstance(training_rows, IterableDataset) else len(training_rows)
    accelerator.print(
        f"{sum(p.numel() for p in loop.module.parameters()):,} parameters; {count} training and {len(validation_rows)} "
        f"validation images; tasks: {', '.join(specs)}"
    )
    loop.resume(None if arguments.resume is None else find_checkpoint(loop.checkpoints, arguments.resume))
    _take_camera(model, processor, missing, accelerator)
    with loop.saying_how_to_continue():
        loop.run()
        seconds = loop.progress.seconds
        duration = f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"
        before = "" if loop.has_trained else "nothing is left to train: "
        accelerator.print(f"{before}trained {loop.progress.step} steps in {duration}")
        results = save_results(loop, provenance)
    accelerator.print(_next_step(arguments))
    if repository is not None:
        print(f"uploaded to {upload(arguments.output_dir, repository)}")
    accelerator.end_training()
    return results


def depends_on_focal_length(processor: MulTProcessingMixin) -> bool:
    """Whether any targets depend on the focal lengths of the images."""
    return any(map(processor.depends_on_focal_length, processor.task_specs.values()))


def _take_camera(
    model: MulTForMultiTaskDensePrediction, processor: MulTProcessingMixin, untaught: Collection[str], accelerator: Accelerator
) -> None:
    """Write the processor's camera into the model's configuration, because it is what the targets are for, and say if it was another.

    Raises:
        ValueError: if a task whose values depend on the camera stays as it was learnt for another one.
    """
    dependent = {task: spec for task, spec in processor.task_specs.items() if spec.zoom_exponent}
    taught = [task for task in dependent if task not in untaught and _learns(model, task)]
    before, after = model.config.canonical_focal_length, processor.canonical_focal_length
    if before == after or not dependent or (before is None and not taught):
        return
    check_same_camera(before, after, [spec for task, spec in dependent.items() if task not in taught])
    if before is not None:
        targets = "true distances" if after is None else f"those for {after:g}"
        learnt = f"{' and '.join(taught)} for a canonical focal length of {before:g}"
        accelerator.print(
            f"the model learnt {learnt}, but the processor's targets are {targets}, so it learns anew; to keep what it learnt, build the "
            f"processor with canonical_focal_length={before:g}"
        )
    model.config.canonical_focal_length = after


def _learns(model: MulTForMultiTaskDensePrediction, task: str) -> bool:
    """Whether a task's own weights or those of the encoder are trained; another task's attention alone does not teach it a camera."""
    others = {id(parameter) for other in model.task_names if other != task for _, parameter in model.task_parameters(other)}
    return any(parameter.requires_grad and id(parameter) not in others for parameter in model.parameters())


def _claim_destinations(arguments: TrainingArguments, accelerator: Accelerator) -> str | None:
    """Check before the first step that the results can be written after the last.

    Returns:
        In the main process, the id of the repository to upload to; None without one.
    """
    repository = None
    if accelerator.is_main_process:
        _check_unused(arguments)
        if arguments.resume is None:
            check_new_run(arguments.output_dir / "checkpoints", overwrite=arguments.overwrite)
        if arguments.push_to_hub is not None:  # before anything is deleted: it may be refused
            repository = create_repository(arguments.push_to_hub, private=arguments.hub_private_repo)
        if arguments.resume is None:
            clear_for_new_run(arguments.output_dir / "checkpoints", overwrite=arguments.overwrite)
            if arguments.overwrite:
                shutil.rmtree(arguments.output_dir / BEST, ignore_errors=True)  # it would stand beside another run's model
    accelerator.wait_for_everyone()
    return repository


def _check_unused(arguments: TrainingArguments) -> None:
    """Refuse a directory with files that the results would replace, such as a model; where checkpoints are, they decide.

    Raises:
        ValueError: naming them.
    """
    directory = arguments.output_dir
    if (directory / "checkpoints").is_file():
        raise ValueError(f"{directory / 'checkpoints'} is a file, and a run writes a folder there; move it, or give another --output_dir")
    restore_replaced(directory / "checkpoints")
    found = sorted({path.name for pattern in RESULTS for path in directory.glob(pattern)})
    if found and not arguments.overwrite and not list_checkpoints(directory / "checkpoints"):
        instead = "add --overwrite to replace them" if arguments.resume is None else "start a new run with --overwrite in place of --resume"
        raise ValueError(
            f"{directory} has {', '.join(found)} and no checkpoints; the results of this run would replace them; give another "
            f"--output_dir, or {instead}"
        )


def _next_step(arguments: TrainingArguments) -> str:
    """Instructions for trying the model, printed at the end."""
    model = shlex.quote(str(arguments.output_dir))
    command = f"mult-hf predict --model {model} --inputs image.jpg --output_dir predictions"
    return f"saved to {arguments.output_dir}; try it on an image:\n  {command}"


__all__ = ["depends_on_focal_length", "train"]
