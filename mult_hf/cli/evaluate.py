"""Evaluate a model on a data set, and compare it with a constant baseline, another model or single-task results.

    mult-hf evaluate --model outputs/mult-rooms --split test --baseline_split train
    accelerate launch -m mult_hf evaluate --model me/mult --dataset me/rooms --split test --flip --compare outputs/other --worst 4

The results do not depend on the number of processes. Predictions are measured at the size of the stored labels (docs/evaluation.md).
`--output_dir` receives `results.json`, `tables.md` and, with `--worst`, `worst_<task>.png`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from accelerate import Accelerator
from datasets import Dataset, Value
from torch import Tensor

from mult_hf import DEFAULT_CHECKPOINT, MulTForMultiTaskDensePrediction, TaskSpec
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.cores import keep_freed_memory, threads_per_process
from mult_hf.data.files import make_folder, write_text
from mult_hf.data.row_errors import naming_split
from mult_hf.data.schema import FOCAL_LENGTH, load_rows, load_task_entries
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.evaluation.cards import eval_results, public_name, shareable, to_jsonable, update_card
from mult_hf.evaluation.comparison import bootstrap_differences, read_single_task_results
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import Evaluation, evaluate, evenly_spread
from mult_hf.evaluation.photographs import (
    add_normals,
    check_focal_lengths,
    find_sets,
    metrics_of_some_sets,
    noise_floor,
    pooled,
    task_of,
    with_scaled_metrics,
)
from mult_hf.evaluation.report import (
    comparison_table,
    gain_table,
    list_worst,
    per_class_rows,
    per_class_tables,
    remove_results,
    results_table,
    save_worst,
    unmeasured_tasks,
)
from mult_hf.inference.directory_lock import exclusive_run
from mult_hf.inference.loading import load_processor, load_whole_model
from mult_hf.inference.predictor import Predictor, TestTimeAugmentation, predict
from mult_hf.inference.run import MAX_SIDE, MIN_SIDE
from mult_hf.inference.runtimes import check_runtime, with_runtime
from mult_hf.model.entry_fields import refusal
from mult_hf.model.tasks import registered_tasks, resolve_tasks

from .arguments import MAX_WORKERS, check_bounds, flag, parse_arguments
from .runtime_flags import dtype_flag, runtime_flag

CHECKOUT = Path(__file__).resolve().parents[2]
ROOMS_SAMPLE = CHECKOUT / "examples/data/rooms-sample"
CONFIDENCE = 0.95
LEAST_RESAMPLES = 100  # with much fewer, the ends of a 95 % interval are the extremes
BASELINE = "constant baseline"  # column of the baseline


def full_name(path: str) -> str:
    """The full path of a directory, or an unchanged Hub id."""
    return str(Path(path).resolve()) if Path(path).is_dir() else path


@dataclass
class EvaluationArguments:
    """Model, data and method of an evaluation; each field is a flag, and a key of the file given by `--config`."""

    HELP_GROUPS: ClassVar[dict[str, str]] = {
        "model": "model",
        "dataset": "data",
        "image_size": "method",
        "baseline_split": "comparison",
        "worst": "outputs",
    }

    model: str = flag(DEFAULT_CHECKPOINT, "directory or Hub id of the model; by default the one in the package")
    config: Path | None = flag(None, "YAML or JSON file of flags; flags on the command line take precedence")
    # Data
    dataset: str | None = flag(
        str(ROOMS_SAMPLE) if ROOMS_SAMPLE.is_dir() else None,
        "local directory or Hub id of a data set (docs/data.md); in a checkout by default the Rooms sample",
    )
    split: str = flag("validation", "split to measure on")
    tasks: list[str] | None = flag(None, "names of tasks to measure; by default all tasks that model and data share")
    max_samples: int | None = flag(None, "measure on this many evenly spaced rows; by default on all")
    focal_length_column: str = flag(FOCAL_LENGTH, "column with each image's focal length in pixels of the stored image, if there is one")
    photographs: bool = flag(
        False,
        "measure depth after median scaling, too, and normals from depth if the data have none; on for a directory of data sets",
    )
    # Method
    image_size: list[int] | None = flag(
        None, "side, or height and width, to which images are resized for the model; by default the size of its processor"
    )
    flip: bool = flag(False, "average with the predictions of the mirrored image")
    scales: list[float] = flag([1.0], "average over the image at these factors of its size")
    batch_size: int = flag(8, "images per batch and process")
    num_workers: int = flag(0, "worker processes that prepare batches, per predicting process")
    runtime: str = runtime_flag()
    dtype: str = dtype_flag()
    cpu_threads: int | None = flag(
        None, "threads per process without accelerator; by default the available CPU cores, shared between processes"
    )
    # Comparison
    baseline_split: str | None = flag(None, "split that the constant baseline is computed from; no baseline by default")
    compare: str | None = flag(None, "directory or Hub id of a second model to compare with")
    resamples: int = flag(1000, "number of bootstrap resamples for the intervals of differences")
    seed: int = flag(0, "seed of these resamples")
    single_task_results: Path | None = flag(
        None, "directory with one directory per single-task run, each with a metrics.json or results.json"
    )
    # Outputs
    worst: int = flag(0, "number of worst images to show in a panel per task; no panels by default")
    output_dir: Path = flag(Path("outputs/evaluation"), "where everything is written")
    update_card: bool = flag(False, "write the metrics into the README.md of the model's directory")

    def __post_init__(self) -> None:
        at_least: dict[float, Sequence[str]] = {
            0: ("worst", "num_workers", "seed"),
            1: ("batch_size", "max_samples", "cpu_threads"),
            LEAST_RESAMPLES: ("resamples",),
        }
        check_bounds(self, at_least, {MAX_WORKERS: ["num_workers"]})
        if self.dataset is None:
            raise ValueError(
                "--dataset is missing; give a local directory or Hub id of a data set whose card lists its tasks (docs/data.md)"
            )
        check_runtime(self.runtime, self.dtype)
        if self.image_size is not None and not (
            len(self.image_size) in (1, 2) and MIN_SIDE <= min(self.image_size) <= max(self.image_size) <= MAX_SIDE
        ):
            raise ValueError(
                f"--image_size is {self.image_size}; give a side, or height and width, of at least {MIN_SIDE} pixels and at most {MAX_SIDE}"
            )
        if self.compare is not None and full_name(self.compare) == full_name(self.model):
            raise ValueError(f"--compare is {self.compare}, the same as --model; give another model")
        if self.update_card and self.max_samples is not None:
            raise ValueError(f"--update_card with --max_samples {self.max_samples} would publish metrics of a subset; remove one of them")
        if self.update_card and not (Path(self.model) / "README.md").is_file():
            raise ValueError(f"--update_card needs {self.model}/README.md, which does not exist; download the model, or train one")

    @property
    def augmentation(self) -> TestTimeAugmentation | None:
        """The views to average over; None for the unchanged image."""
        augmentation = TestTimeAugmentation(self.flip, tuple(self.scales))
        return None if augmentation == TestTimeAugmentation() else augmentation

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that differ from the defaults, for the model's card."""
        settings: dict[str, Any] = {} if self.augmentation is None else {"flip": self.flip, "scales": self.scales}
        defaults = {field.name: field.default for field in fields(self)}
        return settings | {
            name: getattr(self, name) for name in ("image_size", "runtime", "dtype") if getattr(self, name) != defaults[name]
        }


@dataclass(frozen=True)
class Candidate:
    """A loaded model and its collator for the data.

    Args:
        name: name of the model's column in tables.
        model: the model in evaluation mode, on its device.
        collator: reads the data's labels, and preprocesses images as the model's own processor does.
        augmentation: views to average over.
    """

    name: str
    model: MulTForMultiTaskDensePrediction
    collator: MultiTaskCollator
    augmentation: TestTimeAugmentation | None

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The tasks that are measured."""
        return self.collator.processor.task_specs

    def predict(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Predict the measured tasks; a [`Predictor`]."""
        return predict(self.model, pixel_values.to(self.model.device), augmentation=self.augmentation, tasks=list(self.specs))


def load_split(arguments: EvaluationArguments, split: str, accelerator: Accelerator) -> Dataset:
    """Load a split of the data; its images are decoded as rows are read.

    Raises:
        ValueError: if it has no rows, or the flags name a column of focal lengths that it does not have, or that holds images.
    """
    with accelerator.main_process_first():
        dataset = load_rows(cast(str, arguments.dataset), split=split)
    if len(dataset) == 0:
        raise ValueError(f"split {split!r} of {arguments.dataset} has 0 rows; choose another")
    named = arguments.focal_length_column
    if named == FOCAL_LENGTH:
        return dataset
    if named not in dataset.column_names:
        raise ValueError(f"--focal_length_column is {named!r}, but {arguments.dataset} has the columns {dataset.column_names}")
    if not isinstance(feature := dataset.features[named], Value):
        kind = type(feature).__name__
        raise ValueError(f"--focal_length_column is {named!r}, a column of type {kind}; give one with a number of pixels per image")
    others = [FOCAL_LENGTH] if FOCAL_LENGTH in dataset.column_names else []
    return dataset.remove_columns(others).rename_column(named, FOCAL_LENGTH)


def load_candidates(arguments: EvaluationArguments, data_specs: dict[str, TaskSpec], device: torch.device) -> list[Candidate]:
    """Load the model, and the model to compare with, if any.

    Raises:
        ValueError: if the model or the data lack a requested task, or define it differently.
    """
    paths = [arguments.model] if arguments.compare is None else [arguments.model, arguments.compare]
    names = [public_name(path) for path in paths]
    names = names if len({*names, BASELINE}) == len(names) + 1 else [full_name(path) for path in paths]
    models = [load_whole_model(path) for path in paths]
    missing = [task for task in arguments.tasks or [] if task not in models[0].task_names or task not in data_specs]
    if missing:
        raise refusal(f"--tasks has {missing}; {paths[0]} has {models[0].task_names}, {arguments.dataset} has {list(data_specs)}")
    return [build_candidate(model, path, name, data_specs, arguments, device) for model, path, name in zip(models, paths, names)]


def build_candidate(
    model: MulTForMultiTaskDensePrediction,
    path: str,
    name: str,
    data_specs: dict[str, TaskSpec],
    arguments: EvaluationArguments,
    device: torch.device,
) -> Candidate:
    """A model with its own processor (for the size and normalisation of its training), configured to read this data set's labels."""
    wanted = {task: spec for task, spec in model.config.task_specs.items() if arguments.tasks is None or task in arguments.tasks}
    try:
        specs = measured_specs(wanted, data_specs)
    except ValueError as error:
        raise ValueError(f"{path} cannot be measured on {arguments.dataset}: {error}") from None
    size = arguments.image_size
    resized: dict[str, Any] = {} if size is None else {"size": {"height": size[0], "width": size[-1]}, "do_resize": True}
    processor = load_processor(path, model.config, specs.values(), tasks=[spec.to_dict() for spec in specs.values()], **resized)
    running = with_runtime(model, arguments.runtime, arguments.dtype, specs, torch.get_num_threads()).to(device)
    return Candidate(name, running, MultiTaskCollator(processor), arguments.augmentation)


def measure(
    candidates: list[Candidate],
    dataset: Dataset,
    numbers: list[int],
    training: Dataset | None,
    arguments: EvaluationArguments,
    accelerator: Accelerator,
) -> dict[str, Evaluation]:
    """Measure each model in a separate pass, because each has its own processor; the first pass also measures the baseline."""
    evaluations: dict[str, Evaluation] = {}
    for candidate in candidates:
        predictors: dict[str, Predictor] = {candidate.name: candidate.predict}
        if training is not None and candidate is candidates[0]:
            with naming_split(str(arguments.baseline_split)):
                predictors[BASELINE] = constant_baseline(training, candidate.collator)
        with naming_split(arguments.split):
            evaluations |= evaluate(
                predictors,
                dataset,
                candidate.collator,
                accelerator,
                batch_size=arguments.batch_size,
                num_workers=arguments.num_workers,
                per_image=arguments.compare is not None or arguments.worst > 0,
                numbers=numbers,
            )
    return evaluations


@dataclass
class Report:
    """Report of an evaluation: Markdown tables, and numbers for `results.json`."""

    texts: list[str]
    numbers: dict[str, Any]

    def add_comparison(self, evaluations: dict[str, Evaluation], names: Sequence[str], arguments: EvaluationArguments) -> None:
        """Add the differences of two models."""
        ours, theirs = (evaluations[name] for name in names)
        differences = bootstrap_differences(ours, theirs, resamples=arguments.resamples, confidence=CONFIDENCE, seed=arguments.seed)
        self.texts.append(comparison_table(names, differences, ours, CONFIDENCE))
        self.numbers["compared"] = theirs.compute()
        self.numbers["differences"] = {name: each._asdict() for name, each in differences.items()}

    def add_noise_floor(self, dataset: Any, specs: dict[str, TaskSpec]) -> None:
        """Add the noise of normals from the data's depth, if they have depth and focal lengths."""
        depth = task_of(specs, "depth-estimation")
        floor = None if depth is None else noise_floor(dataset, specs[depth])
        if floor is not None:
            self.texts.append(
                f"Noise of normals from this depth: {floor:.1f} degrees (median angle between those of two halves of the pixels, over the "
                "square root of 2)."
            )
            self.numbers["noise_of_normals"] = floor

    def add_gain(self, single: dict[str, float], specs: dict[str, TaskSpec]) -> None:
        """Add the multi-task gain over single-task results."""
        gain, table = gain_table(self.numbers["model"], single, specs)
        self.texts.append(table)
        self.numbers |= {"single_task": single, "multi_task_gain": gain}

    @property
    def text(self) -> str:
        """All tables; the tables of classes come last."""
        return "\n\n".join([*self.texts, *per_class_tables(self.numbers["per_class"])])

    def save(self, directory: Path) -> None:
        """Write `tables.md` and `results.json`, which comes last: without it, an evaluation was interrupted."""
        write_text(directory / "tables.md", self.text + "\n")
        write_text(directory / "results.json", json.dumps(to_jsonable(self.numbers), indent=2, allow_nan=False) + "\n")


def build_report(
    candidates: list[Candidate], evaluations: dict[str, Evaluation], data_tasks: Sequence[str], described: dict[str, Any]
) -> Report:
    """A report with the table of all metrics, and the reasons for missing tasks."""
    ours = evaluations[candidates[0].name]
    texts = [results_table(evaluations)]
    for each in candidates:
        texts += unmeasured_tasks(each.name, each.model.task_names, data_tasks, evaluations[each.name])
    numbers = {**described, "model": ours.compute(), "per_class": per_class_rows(ours)}
    for each in candidates:
        if count := evaluations[each.name].assumed_focal_lengths:
            degrees = each.collator.processor.assumed_field_of_view
            texts.append(
                f"{each.name}: the focal lengths of {count} of {described['evaluated_samples']} images are not known. Metres there assume "
                f"a field of view of {degrees:g} degrees along the longer side; give focal lengths in pixels in a "
                "column for `--focal_length_column`."
            )
    if ours.assumed_focal_lengths:
        numbers["assumed_focal_lengths"] = ours.assumed_focal_lengths
    if BASELINE in evaluations:
        numbers["constant_baseline"] = evaluations[BASELINE].compute()
    return Report(texts, numbers)


def main(argv: Sequence[str] | None = None) -> None:
    """Load, measure, write.

    Args:
        argv: the flags; by default those of this process.
    """
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(EvaluationArguments, argv, __doc__.split("\n")[0], prog="mult-hf evaluate")
    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        torch.set_num_threads(threads_per_process(arguments.cpu_threads, accelerator.num_processes))
        keep_freed_memory()
    sets = find_sets(cast(str, arguments.dataset))
    if sets:
        evaluate_sets(arguments, sets, accelerator)
    else:
        evaluate_set(arguments, accelerator)
    accelerator.end_training()


def evaluate_sets(arguments: EvaluationArguments, sets: Sequence[Path], accelerator: Accelerator) -> None:
    """Measure every data set of a directory separately, then all images together.

    Each set has its own constant baseline, by default the best one for its measured split.

    Raises:
        ValueError: if a flag is for one data set only.
    """
    idle = [f"--{name}" for name in ("single_task_results", "update_card") if getattr(arguments, name)]
    if idle:
        raise ValueError(f"{arguments.dataset} has {len(sets)} data sets, and {' and '.join(idle)} needs one; remove it, or choose a set")
    evaluations = []
    for directory in sets:
        own = replace(
            arguments,
            dataset=str(directory),
            photographs=True,
            baseline_split=arguments.baseline_split or arguments.split,
            output_dir=arguments.output_dir / directory.name,
        )
        if accelerator.is_main_process:
            print(f"\n## {directory.name}\n")
        evaluations.append(evaluate_set(own, accelerator))
        if accelerator.is_main_process and len(evaluations) == 1:
            remove_results(arguments.output_dir)  # earlier ones of all sets, which are no longer those of every set
    if accelerator.is_main_process:
        whole = {name: pooled([each[name] for each in evaluations]) for name in evaluations[0]}
        name = next(iter(whole))
        partly = metrics_of_some_sets([each[name] for each in evaluations], whole[name])
        notes = [f"Left out, because not every set with the task has them: {', '.join(partly)}."] if partly else []
        assumed = sum(each[name].assumed_focal_lengths for each in evaluations)
        count = {"assumed_focal_lengths": assumed} if assumed else {}
        numbers = {name: each.compute() for name, each in whole.items()} | {"per_class": {}} | count
        report = Report([results_table(whole), *notes], numbers)
        print(f"\n## all sets\n\n{report.text}")
        report.save(arguments.output_dir)
        print(f"written to {arguments.output_dir}")


def evaluate_set(arguments: EvaluationArguments, accelerator: Accelerator) -> dict[str, Evaluation]:
    """Measure one data set, and write its report; returns the evaluations by the predictors' names."""
    data = cast(str, arguments.dataset)  # a missing one is refused earlier
    data_specs = resolve_tasks(load_task_entries(data))
    whole = load_split(arguments, arguments.split, accelerator)
    numbers = evenly_spread(len(whole), arguments.max_samples)
    dataset: Any = whole.select(numbers)
    training: Any = None if arguments.baseline_split is None else load_split(arguments, arguments.baseline_split, accelerator)
    if arguments.photographs:
        check_cameras(arguments, whole, numbers, training)
        training = None if training is None else add_normals(training, data_specs, registered_tasks())[0]
        dataset, data_specs = add_normals(dataset, data_specs, registered_tasks())
        data_specs = with_scaled_metrics(data_specs)
    columns = list(dataset[0])
    if missing := [task for task in arguments.tasks or [] if task in data_specs and task not in columns]:
        raise refusal(f"--tasks has {missing}, but {arguments.split!r} of {data} has the columns {columns}")
    described = {"dataset": public_name(data), "split": arguments.split, "evaluated_samples": len(dataset)}
    directory = arguments.single_task_results
    single = None if directory is None else read_single_task_results(directory, described)
    candidates = load_candidates(arguments, data_specs, accelerator.device)
    if not arguments.photographs and any(each.collator.processor.canonical_focal_length is not None for each in candidates):
        check_cameras(arguments, whole, numbers, training)
    with exclusive_run(arguments.output_dir, main_process=accelerator.is_main_process):
        evaluations = measure(candidates, dataset, numbers, training, arguments, accelerator)
        if accelerator.is_main_process:
            report = build_report(candidates, evaluations, list(data_specs), described)
            if arguments.photographs:
                report.add_noise_floor(dataset, data_specs)
            if arguments.compare is not None:
                report.add_comparison(evaluations, [each.name for each in candidates], arguments)
            if single is not None:
                report.add_gain(single, candidates[0].specs)
            publish(report, candidates[0], evaluations[candidates[0].name], dataset, arguments)
    return evaluations


def check_cameras(arguments: EvaluationArguments, dataset: Dataset, numbers: list[int], training: Dataset | None) -> None:
    """Check the focal lengths of the measured rows and of the baseline's split before any prediction.

    Raises:
        ValueError: if one is not a valid number of pixels; the message names its row.
    """
    check_focal_lengths(dataset, numbers, arguments.split, arguments.focal_length_column)
    if training is not None:
        check_focal_lengths(training, range(len(training)), str(arguments.baseline_split), arguments.focal_length_column)


def publish(report: Report, candidate: Candidate, evaluation: Evaluation, dataset: Dataset, arguments: EvaluationArguments) -> None:
    """Print the tables, and write the files and the card."""
    print(report.text)
    make_folder(arguments.output_dir)
    remove_results(arguments.output_dir)  # of an evaluation with other settings
    worst = evaluation.worst(arguments.worst) if arguments.worst else {}
    if worst:
        report.numbers["worst"] = list_worst(evaluation, worst)
    report.numbers["arguments"] = {key: shareable(value, CHECKOUT) for key, value in asdict(arguments).items()}
    report.save(arguments.output_dir)
    if worst:  # after they are listed, so that the next evaluation removes them even if this one is killed here
        save_worst(evaluation, worst, candidate.predict, dataset, candidate.collator, arguments.output_dir)
    if arguments.update_card:
        results = eval_results(report.numbers["model"], candidate.specs, report.numbers["dataset"], arguments.split, arguments.settings)
        update_card(Path(arguments.model) / "README.md", results)
    print(f"written to {arguments.output_dir}")


if __name__ == "__main__":
    main()
