"""Measure a model on a data set, beside a constant baseline, another model or single-task results.

    python examples/evaluate.py --model outputs/mult-rooms --split test --baseline_split train
    accelerate launch examples/evaluate.py --model me/mult --dataset me/rooms --split test --flip --compare outputs/other --worst 4

Works over any number of processes and gives the same numbers. Predictions are measured at the size of the stored labels (see
docs/evaluation.md). Written to `--output_dir`: `results.json`, `tables.md` and, with `--worst`, `worst_<task>.png`.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import HfArgumentParser

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor, TaskSpec
from mult_hf.cli.arguments import program_name
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.evaluation.cards import eval_results, public_name, shareable, to_jsonable, update_card
from mult_hf.evaluation.comparison import Difference, bootstrap_differences
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import Evaluation, evaluate, finish, higher_is_better
from mult_hf.evaluation.report import results_table
from mult_hf.inference.predictor import Predictor, TestTimeAugmentation, predict
from mult_hf.metrics import multi_task_gain
from mult_hf.model.tasks import resolve_tasks
from mult_hf.model.visualization import color_limits, colorize, panel

ROOT = Path(__file__).resolve().parents[1]
CONFIDENCE = 0.95
BASELINE = "constant baseline"  # column of the baseline


def full_name(path: str) -> str:
    """A directory by its whole path, a Hub id as it is."""
    return str(Path(path).resolve()) if Path(path).is_dir() else path


@dataclass
class EvaluationArguments:
    """What is measured and how; each field is a flag."""

    model: str = field(metadata={"help": "directory or Hub id of the model"})
    dataset: str = field(default=str(ROOT / "examples/data/rooms-sample"), metadata={"help": "local directory or Hub id"})
    split: str = field(default="validation", metadata={"help": "split to measure on"})
    tasks: list[str] | None = field(default=None, metadata={"help": "names of tasks to measure; all that model and data share by default"})
    image_size: list[int] | None = field(
        default=None, metadata={"help": "side, or height and width, of photos for the model; its processor's by default"}
    )
    batch_size: int = field(default=8, metadata={"help": "photos at once in each process"})
    num_workers: int = field(default=0, metadata={"help": "processes that prepare batches, for each process that predicts"})
    cpu_threads: int | None = field(default=None, metadata={"help": "threads a process without accelerator; all cores, shared, by default"})
    max_samples: int | None = field(default=None, metadata={"help": "measure on this many evenly spread rows; on all by default"})
    flip: bool = field(default=False, metadata={"help": "average with the predictions of the mirrored photo"})
    scales: list[float] = field(default_factory=lambda: [1.0], metadata={"help": "average over the photo at these factors of its size"})
    baseline_split: str | None = field(default=None, metadata={"help": "split that a constant baseline is learnt from; none by default"})
    compare: str | None = field(default=None, metadata={"help": "directory or Hub id of a second model, with differences"})
    resamples: int = field(default=1000, metadata={"help": "draws of images for the intervals of differences"})
    seed: int = field(default=0, metadata={"help": "of these draws"})
    single_task_results: Path | None = field(
        default=None, metadata={"help": "directory with a directory a single-task run, each with a metrics.json or results.json"}
    )
    worst: int = field(default=0, metadata={"help": "images in the panel of each task's worst ones; no panels by default"})
    output_dir: Path = field(default=Path("outputs/evaluation"), metadata={"help": "where everything is written"})
    update_card: bool = field(default=False, metadata={"help": "write the metrics into the README.md of the model's directory"})

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("max_samples", 1), ("resamples", 1), ("worst", 0), ("num_workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} is {value}; it must be at least {least}")
        if self.image_size is not None and not (len(self.image_size) in (1, 2) and min(self.image_size) >= 32):
            raise ValueError(f"--image_size is {self.image_size}; give a side, or height and width, of at least 32 pixels")
        if self.compare is not None and full_name(self.compare) == full_name(self.model):
            raise ValueError(f"--compare is {self.compare}, the same as --model; give another model")
        if self.update_card and self.max_samples is not None:
            raise ValueError(f"--update_card with --max_samples {self.max_samples} would publish the numbers of a part; drop one of them")
        if self.update_card and not (Path(self.model) / "README.md").is_file():
            raise ValueError(f"--update_card needs {self.model}/README.md, which is not there; download the model, or train one")

    @property
    def augmentation(self) -> TestTimeAugmentation | None:
        """The views to average over, if there is more than the photo as it is."""
        augmentation = TestTimeAugmentation(self.flip, tuple(self.scales))
        return None if augmentation == TestTimeAugmentation() else augmentation

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from plain use of the model, for its card."""
        views = {} if self.augmentation is None else {"flip": self.flip, "scales": self.scales}
        return views if self.image_size is None else {**views, "image_size": self.image_size}


@dataclass
class Candidate:
    """A loaded model, ready to be measured on the data."""

    name: str
    model: MulTForMultiTaskDensePrediction
    collator: MultiTaskCollator
    predictor: Predictor

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The tasks that are measured."""
        return self.collator.processor.task_specs


def load_split(arguments: EvaluationArguments, split: str, accelerator: Accelerator) -> Dataset:
    """A split of the data; its pictures are decoded as rows are read."""
    with accelerator.main_process_first():
        dataset = load_rows(arguments.dataset, split=split)
    if len(dataset) == 0:
        raise ValueError(f"split {split!r} of {arguments.dataset} has 0 rows; choose another")
    return dataset


def evenly_spread(dataset: Dataset, count: int | None) -> Dataset:
    """`count` rows from the first to the last, or all."""
    if count is None or count >= len(dataset):
        return dataset
    return dataset.select(torch.linspace(0, len(dataset) - 1, count).round().int().tolist())


def load_candidates(arguments: EvaluationArguments, data_specs: dict[str, TaskSpec], device: torch.device) -> list[Candidate]:
    """The model, and the one it is compared with.

    Raises:
        ValueError: if the model or the data lack a task that was asked for, or mean different things by one.
    """
    paths = [arguments.model] if arguments.compare is None else [arguments.model, arguments.compare]
    names = [public_name(path) for path in paths]
    names = names if len({*names, BASELINE}) == len(names) + 1 else [full_name(path) for path in paths]
    models = [MulTForMultiTaskDensePrediction.from_pretrained(path).to(device).eval() for path in paths]
    missing = [task for task in arguments.tasks or [] if task not in models[0].task_names or task not in data_specs]
    if missing:
        raise ValueError(f"--tasks has {missing}; {paths[0]} has {models[0].task_names}, {arguments.dataset} has {list(data_specs)}")
    return [build_contestant(model, path, name, data_specs, arguments) for model, path, name in zip(models, paths, names)]


def build_contestant(
    model: MulTForMultiTaskDensePrediction, path: str, name: str, data_specs: dict[str, TaskSpec], arguments: EvaluationArguments
) -> Candidate:
    """A model with its own processor, whose size and normalisation it was trained with, set to read this data set's labels."""
    wanted = {task: spec for task, spec in model.config.task_specs.items() if arguments.tasks is None or task in arguments.tasks}
    try:
        specs = measured_specs(wanted, data_specs)
    except ValueError as error:
        raise ValueError(f"{path} cannot be measured on {arguments.dataset}: {error}") from None
    size = arguments.image_size
    resized = {} if size is None else {"size": {"height": size[0], "width": size[-1]}, "do_resize": True}
    processor = MulTImageProcessor.from_pretrained(path, tasks=[spec.to_dict() for spec in specs.values()], **resized)
    predictor = partial(predict, model, augmentation=arguments.augmentation, tasks=list(specs))
    return Candidate(name, model, MultiTaskCollator(processor), predictor)


def what_is_left_out(candidate: Candidate, data_specs: Mapping[str, TaskSpec], evaluation: Evaluation) -> list[str]:
    """Sentences about tasks without numbers, and why."""
    tasks, specs = candidate.model.task_names, candidate.specs
    values = evaluation.compute()
    unknown = [task for task in specs if all(math.isnan(value) for name, value in values.items() if name.split("/")[0] == task)]
    reasons = {
        "not in the data": [task for task in tasks if task not in data_specs],
        "in the data, but not the model's": [task for task in data_specs if task not in tasks],
        "not asked for": [task for task in tasks if task in data_specs and task not in specs],
        "without a single known pixel in this split": unknown,
    }
    return [f"{candidate.name}, {reason}: {', '.join(names)}." for reason, names in reasons.items() if names]


def measure(
    candidates: list[Candidate], dataset: Dataset, training: Dataset | None, arguments: EvaluationArguments, accelerator: Accelerator
) -> dict[str, Evaluation]:
    """Each model in a pass of its own, since each has a processor of its own; the constant baseline goes with the first."""
    evaluations = {}
    for candidate in candidates:
        predictors = {candidate.name: candidate.predictor}
        if training is not None and candidate is candidates[0]:
            predictors[BASELINE] = constant_baseline(training, candidate.collator)
        evaluations |= evaluate(
            predictors,
            dataset,
            candidate.collator,
            accelerator,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            per_image=arguments.compare is not None or arguments.worst > 0,
        )
    return evaluations


def comparison_table(names: list[str], differences: Mapping[str, Difference], evaluation: Evaluation) -> str:
    """Markdown table of differences, and which model an interval without 0 speaks for."""
    lines = [f"| task | metric | {names[0]} - {names[1]} | {CONFIDENCE:.0%} interval | better |", "|---|---|---|---|---|"]
    known = {name: each for name, each in differences.items() if not math.isnan(each.difference)}
    for name, (difference, low, high) in known.items():
        sign = 1 if higher_is_better(evaluation.metrics, name) else -1
        winner = names[0] if min(sign * low, sign * high) > 0 else names[1] if max(sign * low, sign * high) < 0 else "undecided"
        lines.append(f"| {' | '.join(name.split('/'))} | {difference:+.3g} | {low:+.3g} to {high:+.3g} | {winner} |")
    return "\n".join(lines)


def per_class_rows(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """For each classification a row a class."""
    metrics = evaluation.metrics
    return {task: metrics.per_class(task) for task, spec in metrics.specs.items() if spec.is_classification}


def per_class_tables(tables: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """The same in markdown; a dash where a class does not occur."""
    texts = []
    for task, rows in tables.items():
        lines = [f"{task}, class by class:", "", f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
        lines += [f"| {' | '.join(number(cell) if isinstance(cell, float) else str(cell) for cell in row.values())} |" for row in rows]
        texts.append("\n".join(lines))
    return texts


def number(value: float) -> str:
    """Four digits after the point, or a dash for what is not known."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def read_single_task_results(directory: Path, described: Mapping[str, Any]) -> dict[str, float]:
    """Metrics by `"task/metric"` of several runs, each of one task; a run's `results.json` goes before its `metrics.json`.

    Args:
        directory: holds a directory a run.
        described: the data that these results must be of: what a file says otherwise is refused.

    Raises:
        ValueError: if there is no result, two of one task, one of several tasks, or one of other data.
    """
    files = {path.parent: path for name in ("metrics.json", "results.json") for path in sorted(directory.glob(f"*/{name}"))}
    if not files:
        raise ValueError(f"{directory} has no metrics.json or results.json in its directories; give the parent of single-task runs")
    values: dict[str, float] = {}
    for path in files.values():
        run = json.loads(path.read_text())
        other = {key: run[key] for key, value in described.items() if run.get(key, value) != value}
        if other:
            raise ValueError(f"{path} was measured on {other}, this run on { {key: described[key] for key in other} }; measure on one set")
        tasks = sorted({name.split("/")[0] for name in run["model"]})
        if len(tasks) != 1 or run["model"].keys() & values.keys():
            raise ValueError(f"{path} has results of {tasks}, {sorted(values)} came before; give one run of one task each")
        values |= {name: math.nan if value is None else value for name, value in run["model"].items()}
    return values


def gain_table(values: Mapping[str, float], single: Mapping[str, float], specs: Mapping[str, TaskSpec]) -> tuple[float, str]:
    """Multi-task gain in percent over single-task results, and a markdown table of it task by task."""
    headline = {task: f"{task}/{spec.metrics[0]}" for task, spec in specs.items()}
    counted = {task: specs[task] for task, name in headline.items() if not math.isnan(values[name] * single.get(name, math.nan))}
    if not counted:
        raise ValueError(f"the single-task results have {sorted(single)}, none of {sorted(headline.values())} with a number here")
    gain = multi_task_gain(values, single, counted)
    lines = ["| task | metric | multi-task | single-task | gain |", "|---|---|---|---|---|"]
    for task, spec in counted.items():
        name, own = headline[task], multi_task_gain(values, single, {task: spec})
        lines.append(f"| {task} | {spec.metrics[0]} | {values[name]:.4f} | {single[name]:.4f} | {own:+.2f} % |")
    left_out = [task for task in specs if task not in counted]
    note = f" Not counted, for want of a number: {', '.join(left_out)}." if left_out else ""
    return gain, "\n".join([*lines, "", f"Multi-task gain over {len(counted)} of {len(specs)} tasks: {gain:+.2f} %.{note}"])


@torch.no_grad()
def save_worst(candidate: Candidate, evaluation: Evaluation, dataset: Dataset, arguments: EvaluationArguments) -> dict[str, Any]:
    """A panel a task with the photo, prediction and truth of its worst images; returns their names and values."""
    listed = {}
    for metric, ranked in evaluation.worst(arguments.worst).items():
        task = metric.split("/")[0]
        spec, rows, captions = candidate.specs[task], [], []
        for number, value in ranked:
            pixel_values, targets = candidate.collator.collate_for_evaluation([dataset[number]])
            (maps,) = finish(candidate.predictor(pixel_values.to(candidate.model.device)), targets, candidate.collator.processor)
            limits = color_limits(targets[0][task])
            rows.append([dataset[number]["image"], *(colorize(of[task].cpu(), spec, limits) for of in (maps, targets[0]))])
            captions.append(f"{evaluation.names[number]}: {metric.split('/')[1]} {value:.4f}")
        if rows:
            panel(rows, ["photo", "prediction", "truth"], captions, cell=240).save(arguments.output_dir / f"worst_{task}.png")
        listed[metric] = [{"name": evaluation.names[number], "value": value} for number, value in ranked]
    return listed


def report(
    candidates: list[Candidate],
    evaluations: dict[str, Evaluation],
    data_specs: dict[str, TaskSpec],
    arguments: EvaluationArguments,
    described: dict[str, Any],
    single: dict[str, float] | None,
) -> tuple[str, dict[str, Any]]:
    """Everything that the numbers say: markdown for people, and values for programs."""
    first = candidates[0]
    ours = evaluations[first.name]
    values = {name: evaluation.compute() for name, evaluation in evaluations.items()}
    texts = [results_table(evaluations)]
    texts += [sentence for each in candidates for sentence in what_is_left_out(each, data_specs, evaluations[each.name])]
    numbers = {**described, "model": values[first.name], "per_class": per_class_rows(ours)}
    numbers |= {"constant_baseline": values[BASELINE]} if BASELINE in values else {}
    if arguments.compare is not None:
        names = [each.name for each in candidates]
        differences = bootstrap_differences(
            ours, evaluations[names[1]], resamples=arguments.resamples, confidence=CONFIDENCE, seed=arguments.seed
        )
        texts.append(comparison_table(names, differences, ours))
        numbers |= {"compared": values[names[1]], "differences": {name: each._asdict() for name, each in differences.items()}}
    if single is not None:
        gain, table = gain_table(values[first.name], single, first.specs)
        texts.append(table)
        numbers |= {"single_task": single, "multi_task_gain": gain}
    return "\n\n".join([*texts, *per_class_tables(numbers["per_class"])]), numbers


def main() -> None:
    """Load, measure, write."""
    (arguments,) = HfArgumentParser(EvaluationArguments, prog=program_name()).parse_args_into_dataclasses()
    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        torch.set_num_threads(arguments.cpu_threads or max(1, (os.cpu_count() or 1) // accelerator.num_processes))
    data_specs = resolve_tasks(load_task_entries(arguments.dataset))
    dataset = evenly_spread(load_split(arguments, arguments.split, accelerator), arguments.max_samples)
    training = None if arguments.baseline_split is None else load_split(arguments, arguments.baseline_split, accelerator)
    name = public_name(arguments.dataset)
    described = {"dataset": name, "split": arguments.split, "evaluated_samples": len(dataset)}
    directory = arguments.single_task_results
    single = None if directory is None else read_single_task_results(directory, described)
    candidates = load_candidates(arguments, data_specs, accelerator.device)
    evaluations = measure(candidates, dataset, training, arguments, accelerator)
    if accelerator.is_main_process:
        text, numbers = report(candidates, evaluations, data_specs, arguments, described, single)
        print(text)
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        if arguments.worst:
            numbers["worst"] = save_worst(candidates[0], evaluations[candidates[0].name], dataset, arguments)
        numbers["arguments"] = {key: shareable(value, ROOT) for key, value in asdict(arguments).items()}
        (arguments.output_dir / "tables.md").write_text(text + "\n")
        (arguments.output_dir / "results.json").write_text(json.dumps(to_jsonable(numbers), indent=2, allow_nan=False) + "\n")
        if arguments.update_card:
            results = eval_results(numbers["model"], candidates[0].specs, name, arguments.split, arguments.settings)
            update_card(Path(arguments.model) / "README.md", results)
        print(f"written to {arguments.output_dir}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
