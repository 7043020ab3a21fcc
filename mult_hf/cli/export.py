"""Export a model for one image size: ONNX, OpenVINO, ONNX in 8 bits, torch.export; check each file, and measure its accuracy.

    mult-hf export
    mult-hf export --model me/mult --tasks depth normals --image_size 480 640 --results finished
    mult-hf export --model outputs/mult-rooms --formats onnx int8 pt2 --dataset data/rooms-128 --split test

Files are written to `--output_dir` and named after model, tasks and size; docs/export.md describes how to use them.
"""

import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from datasets import Dataset

from mult_hf import DEFAULT_CHECKPOINT, MulTImageProcessor, TaskSpec
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.cores import threads_per_process
from mult_hf.data.files import make_folder, temporary_folder
from mult_hf.data.markdown import markdown_table
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.evaluation.comparison import gain_over
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import Evaluation, evaluate
from mult_hf.evaluation.report import results_table
from mult_hf.inference.export import (
    FORMATS,
    Candidate,
    Exportable,
    ExportError,
    describe,
    files_of,
    load_exportable,
    move_files,
    trace,
    with_sources,
    write,
)
from mult_hf.inference.loading import check_stored_camera, load_processor
from mult_hf.inference.predictor import Predictor
from mult_hf.metrics import metrics_of
from mult_hf.model.processor_fields import MAX_SIDE
from mult_hf.model.tasks import resolve_tasks

from .arguments import check_bounds, flag, parse_arguments
from .errors import CommandError
from .signals import exiting_on_sigterm


@dataclass
class ExportArguments:
    """Model and files of an export; each field is a flag."""

    model: str = flag(DEFAULT_CHECKPOINT, "directory or Hub id of the model; by default the one in the package")
    tasks: list[str] | None = flag(None, "names of tasks to export; by default all tasks of the model")
    image_size: list[int] | None = flag(None, "side, or height and width, of the images in pixels; by default that of the processor")
    results: Literal["predictions", "finished"] = flag(
        "predictions", "predictions: as the model returns them, with logits of classes; finished: class ids, values within the task's range"
    )
    formats: list[str] = flag(
        ["onnx"], "any of onnx, openvino, openvino-bfloat16 (the same file run in bfloat16), int8 (ONNX in 8 bits), pt2 (torch.export)"
    )  # fmt: skip
    dataset: str | None = flag(None, "local directory or Hub id of data to measure the files on; not measured by default")
    split: str = flag("test", "split of the data set")
    max_samples: int | None = flag(None, "number of rows to measure on, from the start; all by default")
    cpu_threads: int | None = flag(None, "threads of PyTorch and ONNX Runtime; by default the available CPU cores")
    config: Path | None = flag(None, "YAML or JSON file of flags; flags on the command line take precedence")
    output_dir: Path = flag(Path("outputs/export"), "directory of the files")

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(f"--formats is {self.formats}; give at least one of {', '.join(FORMATS)}")
        sources = {name: FORMATS[name].source for name in self.formats if FORMATS[name].source not in (None, *self.formats)}
        for name, source in sources.items():
            raise ValueError(f"--formats is {self.formats}; {name} is converted from {source}, so add {source}")
        if self.image_size is not None and not (
            len(self.image_size) in (1, 2) and 32 <= min(self.image_size) <= max(self.image_size) <= MAX_SIDE
        ):
            raise ValueError(
                f"--image_size is {self.image_size}; give a side, or height and width, of at least 32 pixels, at most {MAX_SIDE}"
            )
        if self.dataset is not None and self.results == "finished":
            raise ValueError(f"--dataset {self.dataset} measures predictions at the labels' sizes; export with --results predictions")
        if self.dataset is None and self.max_samples is not None:
            raise ValueError(f"--max_samples {self.max_samples} is given without --dataset, which predictions are measured on; add it")
        check_bounds(self, {1: ["max_samples", "cpu_threads"]})


@torch.no_grad()
def seconds_per_image(predictor: Predictor, size: tuple[int, int], runs: int = 10) -> float:
    """Median time of several runs on one image, after two untimed ones."""
    pixel_values, seconds = torch.zeros(1, 3, *size), []
    for _ in range(2 + runs):
        start = time.perf_counter()
        predictor(pixel_values)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def files_table(candidates: dict[str, Candidate], size: tuple[int, int]) -> str:
    """Markdown table of sizes, differences and times."""
    rows = []
    for name, each in candidates.items():
        megabytes = None if each.path is None else sum(file.stat().st_size for file in files_of(each.path)) / 1e6
        file = ["-", "-"] if each.path is None else [each.path.name, f"{megabytes:.1f}"]
        rows.append([name, *file, f"{each.difference:.1e}", f"{seconds_per_image(each.predictor, size):.4f}"])
    return markdown_table(["", "file", "MB", "largest difference", "s per image"], rows)


def labelled_rows(
    specs: Mapping[str, TaskSpec], dataset: str, split: str, max_samples: int | None = None
) -> tuple[dict[str, TaskSpec], Dataset]:
    """The entries of the tasks that can be measured, and the rows; arguments as for [`accuracy_table`].

    Raises:
        ValueError: if model and data share no task, or define one differently, or there is no such split.
        OSError: if there is no such data set.
    """
    specs = measured_specs(specs, resolve_tasks(load_task_entries(dataset)))
    rows = load_rows(dataset, split=split)
    return specs, rows if max_samples is None else rows.select(range(min(len(rows), max_samples)))


def accuracy_table(
    predictors: Mapping[str, Predictor],
    specs: Mapping[str, TaskSpec],
    size: tuple[int, int],
    *,
    model: str,
    dataset: str,
    split: str,
    max_samples: int | None = None,
) -> str:
    """Markdown tables of each predictor's metrics on a split, and of the losses per task against the first predictor.

    Args:
        predictors: predictors by name.
        specs: the tasks that they predict.
        size: height and width of their input in pixels.
        model: directory or Hub id of the model, for its image processor.
        dataset: local directory or Hub id of data with a card that lists its tasks.
        split: split of the data.
        max_samples: number of rows, from the start; all by default.

    Raises:
        ValueError: if model and data share no task, or define one differently.
    """
    specs, rows = labelled_rows(specs, dataset, split, max_samples)
    entries = [spec.to_dict() for spec in specs.values()]
    processor = MulTImageProcessor.from_pretrained(model, tasks=entries, size={"height": size[0], "width": size[1]}, do_resize=True)
    evaluations = evaluate(predictors, rows, MultiTaskCollator(processor), Accelerator(cpu=True), per_image=False)
    came = f"{len(rows)} images of the split {split}, each predicted once, without flipping:"
    return f"{came}\n\n{results_table(evaluations)}\n\n{losses_table(evaluations, specs)}"


def losses_table(evaluations: Mapping[str, Evaluation], specs: Mapping[str, TaskSpec]) -> str:
    """Markdown table of the loss against the first evaluation in each task's first metric, in percent of its value.

    Args:
        evaluations: evaluations by name; the first is the one to compare with.
        specs: the measured tasks.
    """
    (name, before), *others = ((name, each.compute()) for name, each in evaluations.items())
    rows = []
    for task, spec in specs.items():
        key, metric = next(iter(metrics_of(spec).items()))
        losses = [-gain_over(after, before, {task: spec}) for _, after in others]
        cells = ["-" if math.isnan(loss) else f"{round(loss, 2) + 0.0:+.2f} %" for loss in losses]  # + 0.0: no "-0.00"
        rows.append([task, metric.title(spec), metric.format(before[f"{task}/{key}"]), *cells])
    meaning = f"Loss against {name} in percent of its value, by each task's first metric; above 0 is worse, - is unknown:"
    return f"{meaning}\n\n{markdown_table(['task', 'metric', name, *(f'{other} loses' for other, _ in others)], rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Load, trace once, write and check each file, measure.

    Args:
        argv: the command line; by default that of this process.

    Raises:
        ValueError: if flags, model and data are incompatible.
        CommandError: if the model cannot be exported, or a file's predictions differ.
    """
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(ExportArguments, argv, __doc__.split("\n")[0], prog="mult-hf export")
    torch.set_num_threads(threads_per_process(arguments.cpu_threads, 1))
    if arguments.output_dir.exists() and not arguments.output_dir.is_dir():
        raise ValueError(f"--output_dir {arguments.output_dir} is a file; give a folder")
    processor = load_processor(arguments.model)
    canonical = processor.canonical_focal_length is not None
    exportable = load_exportable(arguments.model, arguments.tasks, arguments.results, canonical_camera=canonical)
    check_stored_camera(arguments.model, exportable.model.config, processor, exportable.specs.values())
    facts = describe(exportable, processor, arguments.image_size)
    # What can fail for lack of labels, a package or a folder fails now, before minutes of tracing.
    if arguments.dataset is not None:
        labelled_rows(exportable.specs, arguments.dataset, arguments.split)
    for name in with_sources(arguments.formats):
        FORMATS[name].check()
    make_folder(arguments.output_dir)
    tasks, pixels = ", ".join(exportable.specs), f"{facts['height']} x {facts['width']} pixels"
    print(f"tracing {tasks} at {pixels}, which takes a minute or more", file=sys.stderr, flush=True)
    try:
        with exiting_on_sigterm():
            candidates = write_files(exportable, facts, arguments)
    except ExportError as error:
        raise CommandError(str(error)) from error  # which Python callers of this function expect
    print(files_table(candidates, (facts["height"], facts["width"])))
    if arguments.dataset is not None:
        predictors = {name: each.predictor for name, each in candidates.items()}
        size = (facts["height"], facts["width"])
        table = accuracy_table(
            predictors,
            exportable.specs,
            size,
            model=arguments.model,
            dataset=arguments.dataset,
            split=arguments.split,
            max_samples=arguments.max_samples,
        )
        print("\n" + table)


def write_files(exportable: Exportable, facts: dict[str, Any], arguments: ExportArguments) -> dict[str, Candidate]:
    """Trace the model, and write every format; returns PyTorch and the files by name.

    Raises:
        ExportError: if the model cannot be traced, or a file's predictions differ.
    """
    size = (facts["height"], facts["width"])
    # Eager attention, because torch's fused attention needs twice as many ONNX nodes.
    canonical = facts["canonical_focal_length"] is not None
    eager = load_exportable(arguments.model, arguments.tasks, arguments.results, attention="eager", canonical_camera=canonical)
    program = trace(eager, size)
    stem = "-".join([Path(arguments.model).resolve().name, *dict.fromkeys(arguments.tasks or []), f"{size[0]}x{size[1]}"])
    differences: dict[str, float] = {}
    passed: set[str] = set()
    # In a folder of their own first, so that an interruption or a failed check leaves an earlier file as it is.
    with temporary_folder(arguments.output_dir) as temporary:
        try:
            for name in (name for name in FORMATS if name in arguments.formats):
                print(f"writing and checking {name}", file=sys.stderr, flush=True)
                differences[name] = write(name, exportable, program, facts, temporary / stem, torch.get_num_threads()).difference
                passed = {file.name for file in temporary.iterdir()}
        finally:
            # A model of the same name in another directory, or other --results, have the same file names.
            if replaced := sorted(name for name in passed if (arguments.output_dir / name).exists()):
                print(f"replaced, from an earlier export: {', '.join(replaced)}\n")
            move_files(temporary, arguments.output_dir, passed)
    candidates = {"PyTorch": Candidate(exportable)}
    for name, difference in differences.items():
        path = arguments.output_dir / FORMATS[name].file_name(stem)
        candidates[name] = Candidate(FORMATS[name].predictor(path, torch.get_num_threads()), path, difference)
    return candidates
