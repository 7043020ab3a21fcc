"""Export models for other runtimes: ONNX in float32 and 8 bits, OpenVINO, and `torch.export`; each file is checked against PyTorch.

Every file takes `pixel_values` (batch, 3, height, width) float32, with any batch size and a fixed height and width, and returns one
map per task under the task's name. The file contains size, normalisation and task entries, so that it runs without this package
(docs/export.md).
"""

import errno
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

try:
    import onnx_ir
    import onnxruntime
    from onnx_ir.passes import common as passes
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxscript.optimizer import fold_constants
except ImportError as error:
    raise ImportError(f'exporting needs onnx, onnxscript and onnxruntime ({error}); pip install "mult-hf[export]"') from error

from mult_hf.data.files import FULL_DISK, UNFINISHED
from mult_hf.model.activations import activation_of
from mult_hf.model.cameras import without_camera_limits
from mult_hf.model.image_processing_mult import MulTImageProcessor
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.tasks import TaskSpec
from mult_hf.model.weights import check_weights

from .errors import ExportError, naming_missing_memory, quiet_root_logger
from .loading import load_whole_model
from .predictor import Predictor

logger = logging.get_logger(__name__)

METADATA = "mult_hf"
"""Key of the JSON object inside each file."""

CHECKED_BATCHES = (1, 3)
"""Neither is the traced batch size, so that an accidentally fixed batch size is detected."""

TOLERANCE = 1e-4
"""Largest allowed difference of a float32 file from PyTorch, in the units of the predictions, due to a different order of rounding."""

PRECISION = 64 * torch.finfo(torch.float32).eps
"""Largest allowed difference as a share of a task's largest value, where that is more than the tolerance: for values above 13."""


NEXT_TO_NOTHING = 16
"""Free MiB below which a failure to write a file is taken for that of a full disk. A writer may remove what it had written."""


class Exportable(nn.Module):
    """A model as a function of `pixel_values` alone.

    Args:
        model: the model in evaluation mode.
        tasks: names of the tasks to predict.
        results: `"predictions"`, or `"finished"` for results as from the image processor's `post_process`, except that values of a
            canonical camera stay so, because the file takes no focal length.
        canonical_camera: whether the model was trained for a canonical camera.
    """

    def __init__(self, model: MulTForMultiTaskDensePrediction, tasks: list[str], results: str, *, canonical_camera: bool = False) -> None:
        super().__init__()
        specs = model.config.task_specs
        self.model, self.specs, self.results = model, {task: specs[task] for task in tasks}, results
        self.limited = {task: without_camera_limits(spec) if canonical_camera else spec for task, spec in self.specs.items()}

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """(batch, 3, height, width) -> per task (batch, channels, height, width), or (batch, height, width) class ids."""
        predictions = self.model(pixel_values, tasks=list(self.specs)).predictions
        return {task: RESULTS[self.results](predictions[task], spec) for task, spec in self.limited.items()}


def finished(prediction: Tensor, spec: TaskSpec) -> Tensor:
    """Post-process: class ids (batch, height, width) int64, or (batch, channels, height, width) in the task's unit and range."""
    if spec.is_classification:
        return prediction.argmax(dim=1)
    return prediction if spec.value_range is None or activation_of(spec).gives_unit_vectors else prediction.clamp(*spec.value_range)


RESULTS: dict[str, Callable[[Tensor, TaskSpec], Tensor]] = {"predictions": lambda prediction, spec: prediction, "finished": finished}


def load_exportable(
    name_or_path: str,
    tasks: Iterable[str] | None = None,
    results: str = "predictions",
    attention: str | None = None,
    *,
    canonical_camera: bool = False,
) -> Exportable:
    """Load a model in float32, without the decoders that the requested tasks do not need.

    Args:
        name_or_path: directory or Hub id.
        tasks: names of the tasks to export; all by default.
        results: see [`Exportable`].
        attention: name of the attention function, as for `from_pretrained`.
        canonical_camera: see [`Exportable`].

    Raises:
        ValueError: if the model does not have one of the tasks, or its checkpoint is damaged, see `load_whole_model`.
        OSError: if there is no such model.
    """
    model = load_whole_model(name_or_path, to_train=True).float()  # weights that are not exported may be untrained
    if attention is not None:
        model.set_attn_implementation(attention)
    wanted = model.mult.requested_tasks(tasks)
    reference = {model.config.reference_task} if model.shares_attention else set()
    for task in set(model.task_names) - {*wanted, *reference}:
        model.remove_task(task)
    check_weights(model)
    return Exportable(model, wanted, results, canonical_camera=canonical_camera).eval()


def describe(exportable: Exportable, processor: MulTImageProcessor, image_size: Sequence[int] | None = None) -> dict[str, Any]:
    """Metadata for users of the file, as JSON values; its pixel values are `(rgb * rescale_factor - image_mean) / image_std`.

    With a `canonical_focal_length`, in pixels of the file's input, values of a task with a `zoom_exponent` are those of the canonical
    camera: divide them by `(focal length / canonical_focal_length) ** zoom_exponent`, see `canonical_factor` in `mult_hf.model.cameras`.

    Args:
        exportable: the model.
        processor: the model's image processor.
        image_size: side, or height and width, in pixels; the processor's size by default.

    Raises:
        ValueError: if no size is given and the processor has no fixed size.
    """
    size = image_size or [processor.size[side] for side in ("height", "width") if side in processor.size]
    if not size:
        raise ValueError(f"the processor's size {dict(processor.size)} is not fixed; choose a size with --image_size")
    return {
        "height": size[0],
        "width": size[-1],
        "resample": int(processor.resample),  # PIL's number of the resizing filter
        "rescale_factor": processor.rescale_factor if processor.do_rescale else 1.0,
        "image_mean": list(processor.image_mean) if processor.do_normalize else [0.0] * 3,
        "image_std": list(processor.image_std) if processor.do_normalize else [1.0] * 3,
        "canonical_focal_length": processor.canonical_focal_length,
        "assumed_field_of_view": processor.assumed_field_of_view,
        "results": exportable.results,
        "tasks": {task: spec.to_dict() for task, spec in exportable.specs.items()},
    }


@torch.no_grad()
def trace(exportable: Exportable, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """Trace the model as a graph, for any batch size and this (height, width).

    Raises:
        ValueError: if the size is too small for the model.
        RuntimeError: as the model raises it.
        MissingMemoryError: if memory is missing for this size.
        ExportError: if the model cannot be traced. All decoders can be traced, so the message
            names the backbone.
    """
    with naming_missing_memory(size):
        exportable(torch.zeros(1, 3, *size))  # raises the model's own errors first, such as that the size is too small
    batch = torch.export.Dim("batch", min=1)
    try:
        program = torch.export.export(exportable, (torch.zeros(2, 3, *size),), dynamic_shapes={"pixel_values": {0: batch}}, strict=False)
    except Exception as error:  # torch has no common class for these errors
        backbone = type(exportable.model.mult.backbone).__name__
        raise ExportError(
            f"a model with a {backbone} encoder could not be exported at {size[0]} x {size[1]} pixels; Swin encoders can: {error}"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # megabytes of source lines and paths of this machine
    return program


# --- files ----------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def write_onnx(program: torch.export.ExportedProgram, facts: dict[str, Any], stem: Path) -> Path:
    """Write ONNX in float32. Above 2 GB, protobuf's limit, the weights are in a second file next to it."""
    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        input_names=["pixel_values"],
        output_names=list(facts["tasks"]),
        dynamic_shapes={"pixel_values": {0: "batch"}},
        optimize=False,  # most of its time would go to rules that merge nodes, which runtimes do by themselves
    )
    assert exported is not None, "with dynamo=True it returns a program"
    simplify(exported.model)
    for node in exported.model.graph:
        node.metadata_props.clear()  # source positions, larger than the weights of a small model
    exported.model.metadata_props[METADATA] = json.dumps(facts)
    path = stem.with_name(f"{stem.name}.onnx")
    exported.save(path)
    return path


def simplify(graph: onnx_ir.Model) -> None:
    """Compute what does not depend on the input, store each constant as a weight, and remove what is not needed, in place.

    Otherwise ONNX Runtime warns of each unused weight, and quantization does not recognise transposed ones.
    """
    fold_constants(graph)
    onnx_ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.NameFixPass(),
    )(graph)


def write_int8(program: torch.export.ExportedProgram, facts: dict[str, Any], stem: Path) -> Path:
    """Write ONNX with linear layers in 8 bits: one scale per channel of the weights, and activations scaled at run time.

    Attention maps, norms and convolutions (the first layer, the trunk of `mtan`) stay in float32.
    """
    path = stem.with_name(f"{stem.name}.int8.onnx")
    source = stem.with_name(f"{stem.name}.onnx")
    with quiet_root_logger():  # through which it advises a step of preparation that our files have behind them
        quantize_dynamic(source, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8)
    return path


def write_pt2(program: torch.export.ExportedProgram, facts: dict[str, Any], stem: Path) -> Path:
    """Write a file that runs in PyTorch without this package: `torch.export.load(path).module()(pixel_values)`."""
    path = stem.with_name(f"{stem.name}.pt2")
    contents = io.BytesIO()  # which needs the memory of one file; torch's own writer of files ends the process on a full disk
    torch.export.save(program, contents, extra_files={METADATA: json.dumps(facts)})
    path.write_bytes(contents.getbuffer())
    return path


def write_openvino(program: torch.export.ExportedProgram, facts: dict[str, Any], stem: Path) -> Path:
    """Write OpenVINO's format in float32: a graph, and its weights in a `.bin` file next to it."""
    openvino = _openvino()
    model = openvino.convert_model(stem.with_name(f"{stem.name}.onnx"))
    model.set_rt_info(json.dumps(facts), [METADATA])
    path = stem.with_name(f"{stem.name}.xml")
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ImportError(f'OpenVINO is not installed ({error}); pip install "mult-hf[openvino]"') from error
    return openvino


def onnx_predictor(path: Path, threads: int) -> Predictor:
    """Open a file in ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda pixel_values: dict(zip(names, map(torch.from_numpy, session.run(names, {"pixel_values": pixel_values.numpy()}))))


def int8_predictor(path: Path, threads: int) -> Predictor:
    """The same for a file in 8 bits, one image at a time, because the activations of a batch would share one scale."""
    predict = onnx_predictor(path, threads)

    def predict_each(pixel_values: Tensor) -> dict[str, Tensor]:
        images = [predict(image) for image in pixel_values.split(1)]
        return {task: torch.cat([maps[task] for maps in images]) for task in images[0]}

    return predict_each


def openvino_predictor(path: Path, threads: int, precision: str = "f32") -> Predictor:
    """Open a file in OpenVINO on the CPU.

    Args:
        path: the `.xml` file.
        threads: number of threads.
        precision: type of the products, "f32" or "bf16"; by itself OpenVINO would choose bf16 where the processor has it.
    """
    core = _openvino().Core()
    if precision == "bf16" and not has_openvino_bfloat16():
        logger.warning("this processor has no bfloat16 for OpenVINO, which computes in float32 instead; it needs AVX-512 or AMX")
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(path, "CPU", settings)

    def predict(pixel_values: Tensor) -> dict[str, Tensor]:
        results = compiled(pixel_values.numpy())
        return {output.get_any_name(): torch.from_numpy(results[output]) for output in compiled.outputs}

    return predict


def has_openvino_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this processor; if not, it takes float32 without a message."""
    return "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def pt2_predictor(path: Path, threads: int) -> Predictor:
    """Open a file in PyTorch; the number of threads applies to the whole process."""
    return torch.export.load(path).module()


@dataclass(frozen=True)
class Format:
    """How to write and run a file.

    Args:
        write: writes the file from the traced model, the metadata, and the path without suffix; returns its path. The traced model is
            not needed where there is a source.
        predictor: opens the file with a number of threads.
        suffix: of the file's name.
        tolerance: largest allowed difference of its maps from PyTorch's; None for no limit.
        source: name of the format that it is converted from, if any.
        check: raises ImportError if a package is missing.
    """

    write: Callable[[Any, dict[str, Any], Path], Path]
    predictor: Callable[[Path, int], Predictor]
    suffix: str
    tolerance: float | None = TOLERANCE
    source: str | None = None
    check: Callable[[], Any] = lambda: None

    def file_name(self, stem: str) -> str:
        """Name of the file."""
        return f"{stem}{self.suffix}"


FORMATS: dict[str, Format] = {
    "onnx": Format(write_onnx, onnx_predictor, ".onnx"),
    "openvino": Format(write_openvino, openvino_predictor, ".xml", source="onnx", check=_openvino),
    "openvino-bfloat16": Format(
        lambda program, facts, stem: stem.with_name(f"{stem.name}.xml"),
        partial(openvino_predictor, precision="bf16"),
        ".xml",
        tolerance=None,
        source="openvino",
        check=_openvino,
    ),
    "int8": Format(write_int8, int8_predictor, ".int8.onnx", tolerance=None, source="onnx"),
    "pt2": Format(write_pt2, pt2_predictor, ".pt2"),
}
"""Formats in the order in which they are written. `openvino-bfloat16` is the file of `openvino`, run with products in bfloat16."""


def with_sources(formats: Iterable[str]) -> list[str]:
    """Names of formats and of those that they are converted from, in the order in which they are written."""
    wanted = set(formats)
    for name in reversed(FORMATS):
        if name in wanted:
            wanted.add(FORMATS[name].source or name)
    return [name for name in FORMATS if name in wanted]


# --- checks ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Candidate:
    """PyTorch itself, or an exported file.

    Args:
        predictor: function that runs it.
        path: path of the file; None for PyTorch.
        difference: largest difference from PyTorch.
    """

    predictor: Predictor
    path: Path | None = None
    difference: float = 0.0


@torch.no_grad()
def largest_differences(predictor: Predictor, reference: Predictor, size: tuple[int, int]) -> dict[str, tuple[float, float]]:
    """By task, the largest difference over random images and the largest value: of classes, the share of pixels that differ, and 0."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[Tensor]] = {}
    for batch in CHECKED_BATCHES:
        pixel_values = torch.randn(batch, 3, *size, generator=generator)
        expected, came = reference(pixel_values), predictor(pixel_values)
        for task, maps in expected.items():
            is_number = maps.is_floating_point()
            difference = (came[task] - maps).abs().max() if is_number else (came[task] != maps).float().mean()
            found.setdefault(task, []).append(torch.stack([difference, maps.abs().max() if is_number else torch.tensor(0.0)]))
    largest = {task: torch.stack(each).amax(dim=0).tolist() for task, each in found.items()}  # NaN if any difference is
    return {task: (difference, value) for task, (difference, value) in largest.items()}


def write(
    name: str, exportable: Predictor, program: torch.export.ExportedProgram | None, facts: dict[str, Any], stem: Path, threads: int
) -> Candidate:
    """Write a file and check it; the file is deleted if it differs too much from the model.

    Args:
        name: name of the format, a key of [`FORMATS`].
        exportable: the model.
        program: the traced model; None for a format that is converted from another one's file.
        facts: metadata from [`describe`].
        stem: path of the file without its suffix.
        threads: number of threads of the runtime.

    Raises:
        MissingMemoryError: if memory is missing to check it.
        ExportError: if it differs too much, and was deleted.
        OSError: if it could not be written, for example because the disk is full.
    """
    kind = FORMATS[name]
    with describing_full_disks(stem.with_name(kind.file_name(stem.name))):
        path = kind.write(program, facts, stem)
    predictor = kind.predictor(path, threads)
    size = (facts["height"], facts["width"])
    with naming_missing_memory(size):
        differences = largest_differences(predictor, exportable, size)
    for task, (difference, value) in differences.items():
        allowed = max(kind.tolerance or 0.0, PRECISION * value)
        if kind.tolerance is not None and not difference <= allowed < math.inf:
            for file in files_of(path):
                file.unlink()
            raise ExportError(f"{path.name} differed from PyTorch by {difference:.2g} in {task}, more than {allowed:g}, and was deleted")
    return Candidate(predictor, path, torch.tensor([difference for difference, _ in differences.values()]).max().item())  # NaN if one is


@contextmanager
def describing_full_disks(path: Path) -> Iterator[None]:
    """Name the file and its directory if the disk gets full. Converters raise errors of other kinds than `OSError` then.

    Args:
        path: the file that the block writes.

    Raises:
        OSError: if the disk is full: by its number, or if the block raises any error while next to nothing is free.
    """
    try:
        yield
    except Exception as error:
        free = math.inf
        with suppress(OSError):  # the folder may be gone
            free = shutil.disk_usage(path.parent).free / 2**20
        if getattr(error, "errno", None) not in FULL_DISK and free >= NEXT_TO_NOTHING:
            raise
        folder = path.parent.parent if path.parent.name.startswith(UNFINISHED) else path.parent
        reason = getattr(error, "strerror", None) or error
        number = getattr(error, "errno", None) or errno.ENOSPC
        space = f", where {free:.0f} MiB are free" if math.isfinite(free) else ""
        raise OSError(number, f"{path.name} could not be written to {folder}{space}: {reason}") from error


def move_files(source: Path, target: Path, names: Collection[str] | None = None) -> None:
    """Move exported files to an existing directory, where they replace those of the same names; weights first, so that no graph lacks them.

    Args:
        source: directory of the files.
        target: the other one.
        names: of the files; all by default.
    """
    for file in sorted(source.iterdir(), key=lambda file: file.suffix in (".onnx", ".xml")):
        if names is None or file.name in names:
            os.replace(file, target / file.name)


def files_of(path: Path) -> list[Path]:
    """An exported file, and its weights file if there is one."""
    weights = [path.with_suffix(".bin")] if path.suffix == ".xml" else [path.with_name(f"{path.name}.data")]
    return [file for file in (path, *weights) if file.exists()]


__all__ = [
    "FORMATS",
    "Candidate",
    "ExportError",
    "Exportable",
    "describe",
    "files_of",
    "load_exportable",
    "move_files",
    "trace",
    "with_sources",
    "write",
]
