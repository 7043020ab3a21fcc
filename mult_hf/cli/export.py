"""Export a model for one image size: ONNX, ONNX in 8 bits, torch.export; check each file, and measure what it costs in accuracy.

    mult-hf export
    mult-hf export --model me/mult --tasks depth normals --image_size 480 640 --results finished
    mult-hf export --model outputs/mult-rooms --formats onnx int8 pt2 --split test

Every file takes `pixel_values` (batch, 3, height, width) float32, any batch of one height and width, and returns one map a task
under the task's name. Size, normalisation and the tasks' entries are stored inside, so that it runs without this package
(docs/export.md). Written to `--output_dir`, named after model and size.
"""

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

try:
    import onnxruntime
    import onnxscript  # noqa: F401  torch.onnx needs it, and would say so only after minutes of tracing
    from onnxruntime.quantization import QuantType, quantize_dynamic
except ImportError as error:
    raise ImportError(f'exporting needs onnx, onnxscript and onnxruntime ({error}); pip install "mult-hf[export]"') from error

from accelerate import Accelerator

from mult_hf import DEFAULT_CHECKPOINT, MulTForMultiTaskDensePrediction, MulTImageProcessor, TaskSpec
from mult_hf.cli.arguments import flag, parse_arguments
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.evaluation.comparison import gain_over
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import Evaluation, evaluate
from mult_hf.evaluation.report import results_table
from mult_hf.inference.predictor import Predictor
from mult_hf.metrics import metrics_of
from mult_hf.model.tasks import resolve_tasks

ROOT = Path(__file__).resolve().parents[1]
METADATA = "mult_hf"  # key of the JSON object inside each file
CHECKED_BATCHES = (1, 3)  # neither is the batch that is traced, so a batch size that was fixed by mistake is seen
TOLERANCE = 1e-4


@dataclass
class ExportArguments:
    """What is exported and how; each field is a flag."""

    model: str = flag(DEFAULT_CHECKPOINT, "directory or Hub id of the model; the small one that comes with the package by default")
    tasks: list[str] | None = flag(None, "names of tasks to export; all of the model by default")
    image_size: list[int] | None = flag(None, "side, or height and width, of the images in pixels; the model's processor's by default")
    results: Literal["predictions", "finished"] = flag(
        "predictions", "predictions as from the model, with logits of classes; or finished: class ids, values within the task's range"
    )
    formats: list[str] = flag(["onnx"], "any of onnx, int8 (ONNX with 8-bit matrix products, made from onnx) and pt2 (torch.export)")
    dataset: str = flag(str(ROOT / "examples/data/rooms-sample"), "local directory or Hub id of data to measure the files on")
    split: str | None = flag(None, "split to measure on; nothing is measured by default")
    max_samples: int | None = flag(None, "measure on the first so many rows; on all by default")
    cpu_threads: int | None = flag(None, "threads of PyTorch and ONNX Runtime; all cores by default")
    output_dir: Path = flag(Path("outputs/export"), "where the files are written")

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(f"--formats is {self.formats}; give at least one of {', '.join(FORMATS)}")
        if "int8" in self.formats and "onnx" not in self.formats:
            raise ValueError(f"--formats is {self.formats}; int8 is made from the ONNX file, so add onnx")
        if self.image_size is not None and not (len(self.image_size) in (1, 2) and min(self.image_size) >= 32):
            raise ValueError(f"--image_size is {self.image_size}; give a side, or height and width, of at least 32 pixels")
        if self.split is not None and self.results == "finished":
            raise ValueError(f"--split {self.split} measures predictions at the labels' sizes; export with --results predictions")


# --- what is exported -----------------------------------------------------------------------------------------------------------


class Exportable(nn.Module):
    """A model as a function of `pixel_values` alone.

    Args:
        model: in evaluation mode.
        tasks: names of the tasks to predict.
        results: `"predictions"`, or `"finished"` as `post_process` of the image processor finishes them.
    """

    def __init__(self, model: MulTForMultiTaskDensePrediction, tasks: list[str], results: str) -> None:
        super().__init__()
        specs = model.config.task_specs
        self.model, self.specs, self.finish = model, {task: specs[task] for task in tasks}, RESULTS[results]

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """(batch, 3, height, width) -> per task (batch, channels, height, width), or (batch, height, width) class ids."""
        predictions = self.model(pixel_values, tasks=list(self.specs)).predictions
        return {task: self.finish(predictions[task], spec) for task, spec in self.specs.items()}


def finished(prediction: Tensor, spec: TaskSpec) -> Tensor:
    """Class ids (batch, height, width) int64; or (batch, channels, height, width) within the task's range, in its unit."""
    if spec.is_classification:
        return prediction.argmax(dim=1)
    return prediction if spec.value_range is None else prediction.clamp(*spec.value_range)


RESULTS: dict[str, Callable[[Tensor, TaskSpec], Tensor]] = {"predictions": lambda prediction, spec: prediction, "finished": finished}


def load_model(arguments: ExportArguments, attention: str | None = None) -> Exportable:
    """The model in full precision, without the decoders that the wanted tasks do not need.

    Args:
        arguments: of the command line.
        attention: name of the attention function that it uses, as for `from_pretrained`.

    Raises:
        ValueError: on a task that the model does not have.
    """
    model = MulTForMultiTaskDensePrediction.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation=attention).eval()
    tasks = model.mult.requested_tasks(arguments.tasks)
    for task in set(model.task_names) - {*tasks, model.config.reference_task}:
        model.remove_task(task)
    return Exportable(model, tasks, arguments.results).eval()


def describe(exportable: Exportable, processor: MulTImageProcessor, arguments: ExportArguments) -> dict[str, Any]:
    """What a user of the file must know, as plain values; its pixel values are `(rgb * rescale_factor - image_mean) / image_std`.

    Raises:
        ValueError: if no size was asked for, and the processor has no fixed one.
    """
    size = arguments.image_size or [processor.size[side] for side in ("height", "width") if side in processor.size]
    if not size:
        raise ValueError(f"the processor of {arguments.model} makes images of size {dict(processor.size)}; choose one with --image_size")
    return {
        "height": size[0],
        "width": size[-1],
        "resample": int(processor.resample),  # how photos are resized, by PIL's number
        "rescale_factor": processor.rescale_factor if processor.do_rescale else 1.0,
        "image_mean": list(processor.image_mean) if processor.do_normalize else [0.0] * 3,
        "image_std": list(processor.image_std) if processor.do_normalize else [1.0] * 3,
        "results": arguments.results,
        "tasks": {task: spec.to_dict() for task, spec in exportable.specs.items()},
    }


@torch.no_grad()
def trace(exportable: Exportable, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The model as a graph, for any batch of images of this (height, width).

    Raises:
        RuntimeError: if the model cannot be traced; decoders can, so that it is the backbone that cannot.
    """
    batch = torch.export.Dim("batch", min=1)
    try:
        program = torch.export.export(exportable, (torch.zeros(2, 3, *size),), dynamic_shapes={"pixel_values": {0: batch}}, strict=False)
    except Exception as error:  # torch has no common class for what may go wrong here
        backbone = type(exportable.model.mult.backbone).__name__
        raise RuntimeError(
            f"a model with a {backbone} encoder could not be exported at {size[0]} x {size[1]} pixels; Swin encoders can: {error}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # megabytes of lines of code and of paths of this machine
    return program


# --- the files ------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def write_onnx(program: torch.export.ExportedProgram, facts: dict[str, Any], stem: Path) -> Path:
    """ONNX in float32. Above 2 GB, protobuf's limit, the weights lie in a second file beside it."""
    names = {"input_names": ["pixel_values"], "output_names": list(facts["tasks"]), "dynamic_shapes": {"pixel_values": {0: "batch"}}}
    exported = torch.onnx.export(program, (), dynamo=True, verbose=False, **names)
    for node in exported.model.graph:
        node.metadata_props.clear()  # where each node came from: more than the weights of a small model
    exported.model.metadata_props[METADATA] = json.dumps(facts)
    path = stem.with_name(f"{stem.name}.onnx")
    exported.save(path)
    return path


def write_int8(program: torch.export.ExportedProgram, facts: dict[str, Any], stem: Path) -> Path:
    """The same with linear layers in 8 bits: weights with a scale a channel, activations with one that is found at run time.

    Attention maps, norms and convolutions (the first layer, the trunk of mtan) stay in float32.
    """
    path = stem.with_name(f"{stem.name}.int8.onnx")
    source = stem.with_name(f"{stem.name}.onnx")
    quantize_dynamic(source, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    return path


def write_pt2(program: torch.export.ExportedProgram, facts: dict[str, Any], stem: Path) -> Path:
    """For PyTorch without this package: `torch.export.load(path).module()(pixel_values)`."""
    path = stem.with_name(f"{stem.name}.pt2")
    torch.export.save(program, path, extra_files={METADATA: json.dumps(facts)})
    return path


def onnx_predictor(path: Path, threads: int | None) -> Predictor:
    """A file in ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: all cores
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda pixel_values: dict(zip(names, map(torch.from_numpy, session.run(names, {"pixel_values": pixel_values.numpy()}))))


def pt2_predictor(path: Path, threads: int | None) -> Predictor:
    """A file in PyTorch, whose threads are those of the whole process."""
    return torch.export.load(path).module()


@dataclass(frozen=True)
class Format:
    """How a file is written and run, and how far its maps may lie from PyTorch's; any distance if None."""

    write: Callable[[torch.export.ExportedProgram, dict[str, Any], Path], Path]
    predictor: Callable[[Path, int | None], Predictor]
    tolerance: float | None = TOLERANCE


# In the order in which they are written.
FORMATS: dict[str, Format] = {
    "onnx": Format(write_onnx, onnx_predictor),
    "int8": Format(write_int8, onnx_predictor, tolerance=None),
    "pt2": Format(write_pt2, pt2_predictor),
}


# --- what they are worth --------------------------------------------------------------------------------------------------------


@dataclass
class Candidate:
    """PyTorch itself, or a file."""

    predictor: Predictor
    path: Path | None = None
    difference: float = 0.0


@torch.no_grad()
def largest_difference(predictor: Predictor, reference: Predictor, size: tuple[int, int]) -> float:
    """Over random images and all tasks: the largest distance of values, and the largest share of pixels of another class."""
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch in CHECKED_BATCHES:
        pixel_values = torch.randn(batch, 3, *size, generator=generator)
        expected, got = reference(pixel_values), predictor(pixel_values)
        for task, maps in expected.items():
            apart = (got[task] - maps).abs() if maps.is_floating_point() else (got[task] != maps).float().mean()
            differences.append(apart.max())
    return torch.stack(differences).max().item()  # NaN if any is


def write(
    name: str, exportable: Exportable, program: torch.export.ExportedProgram, facts: dict[str, Any], stem: Path, threads: int | None
) -> Candidate:
    """Write a file and check it; one that predicts something else than the model is deleted.

    Raises:
        RuntimeError: if it does.
    """
    kind = FORMATS[name]
    path = kind.write(program, facts, stem)
    predictor = kind.predictor(path, threads)
    difference = largest_difference(predictor, exportable, (facts["height"], facts["width"]))
    if kind.tolerance is not None and not difference <= kind.tolerance:
        for file in files_of(path):
            file.unlink()
        raise RuntimeError(f"{path} was {difference:.2g} away from PyTorch, more than {kind.tolerance:g}, and was deleted")
    return Candidate(predictor, path, difference)


def files_of(path: Path) -> list[Path]:
    """An exported file, and that of its weights if they lie beside it."""
    return [file for file in (path, path.with_name(f"{path.name}.data")) if file.exists()]


@torch.no_grad()
def seconds_an_image(predictor: Predictor, size: tuple[int, int], runs: int = 10) -> float:
    """Median of several runs of one image, after two that are not timed."""
    pixel_values, seconds = torch.zeros(1, 3, *size), []
    for _ in range(2 + runs):
        start = time.perf_counter()
        predictor(pixel_values)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def files_table(candidates: dict[str, Candidate], size: tuple[int, int]) -> str:
    """Markdown table of sizes, differences and times."""
    lines = ["| | file | MB | largest difference | s an image |", "|---|---|---|---|---|"]
    for name, each in candidates.items():
        file = "- | -" if each.path is None else f"{each.path.name} | {sum(file.stat().st_size for file in files_of(each.path)) / 1e6:.1f}"
        lines.append(f"| {name} | {file} | {each.difference:.1e} | {seconds_an_image(each.predictor, size):.4f} |")
    return "\n".join(lines)


def accuracy_table(candidates: dict[str, Candidate], exportable: Exportable, facts: dict[str, Any], arguments: ExportArguments) -> str:
    """Markdown table of each candidate's metrics on the split, and how much the files lose, task by task.

    Raises:
        ValueError: if model and data share none of the tasks, or mean different things by one.
    """
    specs = measured_specs(exportable.specs, resolve_tasks(load_task_entries(arguments.dataset)))
    entries = [spec.to_dict() for spec in specs.values()]
    size = {"height": facts["height"], "width": facts["width"]}
    processor = MulTImageProcessor.from_pretrained(arguments.model, tasks=entries, size=size, do_resize=True)
    dataset = load_rows(arguments.dataset, split=arguments.split)
    if arguments.max_samples is not None:
        dataset = dataset.select(range(min(len(dataset), arguments.max_samples)))
    predictors = {name: each.predictor for name, each in candidates.items()}
    evaluations = evaluate(predictors, dataset, MultiTaskCollator(processor), Accelerator(cpu=True), per_image=False)
    came = f"{len(dataset)} images of the split {arguments.split}, each predicted once, as it is (no flip):"
    return f"{came}\n\n{results_table(evaluations)}\n\n{losses_table(evaluations, specs)}"


def losses_table(evaluations: Mapping[str, Evaluation], specs: Mapping[str, TaskSpec]) -> str:
    """Markdown table of what each file loses against PyTorch in each task's first metric, in percent of PyTorch's value.

    Args:
        evaluations: by name; PyTorch's is the first.
        specs: the tasks that were measured.
    """
    (name, before), *files = ((name, each.compute()) for name, each in evaluations.items())
    lines = [
        f"Loss against {name} in percent of its value, by each task's first metric; above 0 is worse, - is not known:",
        "",
        f"| task | metric | {name} | {' | '.join(f'{file} loses' for file, _ in files)} |",
        "|---|---|---" + "|---" * len(files) + "|",
    ]
    for task, spec in specs.items():
        key, metric = next(iter(metrics_of(spec).items()))
        losses = [-gain_over(after, before, {task: spec}) for _, after in files]
        cells = ["-" if math.isnan(loss) else f"{round(loss, 2) + 0.0:+.2f} %" for loss in losses]  # + 0.0: no "-0.00"
        lines.append(f"| {task} | {metric.title(spec)} | {metric.format(before[f'{task}/{key}'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Load, trace once, write and check each file, measure."""
    arguments = parse_arguments(ExportArguments, sys.argv[1:] if argv is None else argv, __doc__.splitlines()[0])
    torch.set_num_threads(arguments.cpu_threads or os.cpu_count() or 1)
    exportable = load_model(arguments)
    facts = describe(exportable, MulTImageProcessor.from_pretrained(arguments.model), arguments)
    size = (facts["height"], facts["width"])
    program = trace(load_model(arguments, "eager"), size)  # written out: of torch's fused attention ONNX makes twice the nodes
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    name = "-".join([Path(arguments.model).resolve().name, *(arguments.tasks or []), f"{size[0]}x{size[1]}"])
    stem = arguments.output_dir / name
    candidates = {"PyTorch": Candidate(exportable)}
    for name in (name for name in FORMATS if name in arguments.formats):
        candidates[name] = write(name, exportable, program, facts, stem, arguments.cpu_threads)
    print(files_table(candidates, size))
    if arguments.split is not None:
        print("\n" + accuracy_table(candidates, exportable, facts, arguments))


if __name__ == "__main__":
    main()
