"""Runtimes for predicting with a trained model: PyTorch, ONNX Runtime, OpenVINO.

[`with_runtime`] returns a replacement for a model, with the same interface: `model(pixel_values, tasks=...).predictions`. A runtime other
than PyTorch needs one file per image size. When the first image of a size arrives, the model is exported, which takes about a minute. The
file is checked against the model, as by `mult-hf export`, and kept in [`CACHE`] for later runs.
"""

import hashlib
import inspect
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.constants import HF_HOME
from torch import Tensor
from transformers.utils import logging

from mult_hf.data.files import temporary_folder
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction, MulTPreTrainedModel
from mult_hf.model.outputs import MulTDensePredictionOutput, classifications_among

from .digests import digest, digest_of_values
from .errors import ExportError, MissingMemoryError, naming_missing_memory

logger = logging.get_logger(__name__)

CACHE = Path(HF_HOME) / "mult_hf" / "exported"
"""Where exported files are kept, in the cache of Hugging Face's libraries; it can be deleted at any time."""

STEM = "model"
"""Name of exported files without their suffix."""

SECONDS_TO_RETRY = 600
"""Time after an export that failed for lack of memory, in which images of its size fail at once: a try takes a minute."""

DIGESTS = f"{STEM}.digests.json"
"""File beside exported ones with the SHA-256 of each, by the format's file and then by name: after a loss of power a file may have its full
size and wrong contents, which a runtime would use without a message."""


class ExportedModel(MulTPreTrainedModel):
    """A model that predicts with files exported from it, one per image size.

    Args:
        network: the model, in float32.
        tasks: names of the tasks to export; all by default.
        threads: number of threads of the runtime.
        file_format: name of the format of its files, a key of `FORMATS` in `export.py`.

    Raises:
        ValueError: on an unknown task.
        ImportError: if a package is missing.
    """

    def __init__(self, network: MulTForMultiTaskDensePrediction, tasks: Iterable[str] | None, threads: int, *, file_format: str) -> None:
        super().__init__(network.config)
        wanted = network.mult.requested_tasks(tasks)
        self.network, self.exported_tasks = network, [task for task in network.task_names if task in wanted]  # in one order, for the cache
        self.threads, self.format_name, self.format = threads, file_format, _exporting().FORMATS[file_format]
        self.format.check()
        self.predictors: dict[tuple[int, int], Callable[[Tensor], Mapping[str, Tensor]]] = {}
        self.without_memory: dict[tuple[int, int], tuple[float, str]] = {}  # sizes whose export failed: when, and why
        self.name_or_path = network.name_or_path
        self.source_options = getattr(network, "source_options", {})  # of its folder and revision, where its processor lies, too
        self.eval()

    @property
    def task_names(self) -> list[str]:
        """Names of the model's tasks, exported or not."""
        return self.network.task_names

    @torch.no_grad()
    def forward(self, pixel_values: Tensor, tasks: Iterable[str] | None = None) -> MulTDensePredictionOutput:
        """Predict as the model does.

        Args:
            pixel_values: normalised images (batch, 3, height, width).
            tasks: names of the tasks to return; by default all that were exported.

        Raises:
            ValueError: on a task that the model does not have, or that was not exported.
            ExportError: if the model cannot be exported, the file cannot be kept, or its predictions differ from the model's;
                its subclass [`MissingMemoryError`] if memory is missing for this size alone.
        """
        wanted = self.exported_tasks if tasks is None else self.network.mult.requested_tasks(tasks)
        missing = [task for task in wanted if task not in self.exported_tasks]
        if missing:
            raise ValueError(f"tasks has {missing}; exported are {self.exported_tasks}")
        height, width = pixel_values.shape[-2:]
        if (height, width) not in self.predictors:
            self.predictors[height, width] = self._open((height, width))
        predictions = self.predictors[height, width](pixel_values.float().contiguous())
        chosen = {task: predictions[task] for task in wanted}
        return MulTDensePredictionOutput(predictions=chosen, classifications=classifications_among(chosen, self.config.task_entries))

    def to(self, *args: Any, **kwargs: Any) -> "ExportedModel":  # type: ignore[override]  # the base class has overloads
        """Return the model as it is: these runtimes compute on the CPU, and a file has a fixed dtype."""
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Weights of the model, under its own names."""
        return self.network.state_dict(*args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save the model, not the exported files."""
        self.network.save_pretrained(*args, **kwargs)

    def _open(self, size: tuple[int, int]) -> Callable[[Tensor], Mapping[str, Tensor]]:
        folder = CACHE / self._name(size)
        path = folder / self.format.file_name(STEM)
        if not _is_whole(path):
            failed, reason = self.without_memory.get(size, (-math.inf, ""))
            if time.monotonic() - failed < SECONDS_TO_RETRY:
                raise MissingMemoryError(reason)
            if path.is_file():
                logger.warning(f"{path} is not as it was exported, for example after a loss of power")
            again = "; --image_size gives all images one size" if self.predictors else ""
            logger.warning(
                f"exporting the model to {self.format_name} for images of {size[1]} x {size[0]} pixels, once for each size{again}"
            )
            try:
                with naming_missing_memory(size):
                    self._export(folder, size)
            except (ExportError, ValueError) as error:  # of the trial before tracing, such as that the images are too small
                if isinstance(error, MissingMemoryError):
                    self.without_memory[size] = (time.monotonic(), str(error))
                raise
            except OSError as error:
                raise ExportError(
                    f"exported models cannot be kept in {CACHE}: {error}; set HF_HOME to another folder, or free space there"
                ) from error
            except Exception as error:
                raise self._failure(error) from error
        with naming_missing_memory(size):
            return self.format.predictor(path, self.threads)

    def _failure(self, error: Exception) -> ExportError:
        return ExportError(f"the model could not be exported to {self.format_name}: {type(error).__name__}: {error}")

    def _name(self, size: tuple[int, int]) -> str:
        """A cache key: a name that depends on everything that determines the contents of the files."""
        others = {"code": _code(), "torch_version": torch.__version__, "exported_tasks": self.exported_tasks}
        values = digest_of_values({**self.config.to_dict(), **others})
        return f"{digest(self.network)}-{values}-{size[0]}x{size[1]}"

    def _export(self, folder: Path, size: tuple[int, int]) -> None:
        """Write and check the file and those that it is converted from, in a temporary folder first, so that no partial file is left."""
        export = _exporting()
        self.network.set_attn_implementation("eager")  # torch's fused attention needs twice as many nodes
        exportable = export.Exportable(self.network, self.exported_tasks, "predictions").eval()
        specs = self.config.task_specs
        facts = {"height": size[0], "width": size[1], "tasks": {task: specs[task].to_dict() for task in self.exported_tasks}}
        CACHE.mkdir(parents=True, exist_ok=True)
        with temporary_folder(CACHE) as temporary:
            for name in export.with_sources([self.format_name]):
                path = folder / export.FORMATS[name].file_name(STEM)
                if _is_whole(path):  # exported before; the conversion needs it in this folder
                    for file in export.files_of(path):
                        shutil.copy(file, temporary)
                    continue
                program = export.trace(exportable, size) if export.FORMATS[name].source is None else None
                try:
                    export.write(name, exportable, program, facts, temporary / STEM, self.threads)
                except ValueError as error:  # converters have no common class of errors
                    raise self._failure(error) from error
            files = [temporary / export.FORMATS[name].file_name(STEM) for name in export.with_sources([self.format_name])]
            digests = _digests(folder) | {file.name: {each.name: _sha256(each) for each in export.files_of(file)} for file in files}
            (temporary / DIGESTS).write_text(json.dumps(digests, indent=2))
            folder.mkdir(exist_ok=True)
            export.move_files(temporary, folder)


def _is_whole(path: Path) -> bool:
    """Whether an exported file, and that of its weights if there is one, are there as they were exported."""
    expected = _digests(path.parent).get(path.name)
    if not expected:
        return False
    files = [path.parent / name for name in expected]
    return all(file.is_file() and _sha256(file) == expected[file.name] for file in files)


def _digests(folder: Path) -> dict[str, dict[str, str]]:
    """The contents of [`DIGESTS`]; nothing if it is missing or broken."""
    try:
        found = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(each, dict) for each in found.values()) else {}


def _sha256(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            hashed.update(block)
    return hashed.hexdigest()


def _code() -> dict[str, str]:
    """Source code, other than torch's, that determines an exported file: the model's and the exporter's."""
    files = [*Path(inspect.getfile(MulTForMultiTaskDensePrediction)).parent.glob("*.py"), Path(inspect.getfile(_exporting()))]
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(files)}


def _exporting() -> Any:
    """The module that exports, imported here because it needs further packages, which the runtime `torch` does not."""
    from . import export

    return export


def _in_torch(
    network: MulTForMultiTaskDensePrediction, tasks: Iterable[str] | None, threads: int, *, dtype: torch.dtype
) -> MulTForMultiTaskDensePrediction:
    return network.to(dtype)


class Runtime(NamedTuple):
    """A runtime.

    Args:
        start: by dtype, a function (model, tasks, threads) that returns a model that predicts with this runtime.
        takes_any_size: whether new image sizes need no export.
    """

    start: Mapping[str, Callable[..., Any]]
    takes_any_size: bool


RUNTIMES = {
    "torch": Runtime({name: partial(_in_torch, dtype=getattr(torch, name)) for name in ("float32", "bfloat16")}, takes_any_size=True),
    "onnx": Runtime(
        {"float32": partial(ExportedModel, file_format="onnx"), "int8": partial(ExportedModel, file_format="int8")}, takes_any_size=False
    ),
    "openvino": Runtime(
        {
            "float32": partial(ExportedModel, file_format="openvino"),
            "bfloat16": partial(ExportedModel, file_format="openvino-bfloat16"),
        },
        takes_any_size=False,
    ),
}
"""Runtimes by the name that `--runtime` takes."""


def check_runtime(runtime: str, dtype: str) -> None:
    """Refuse a combination that does not exist.

    Raises:
        ValueError: if the runtime does not support the dtype; the message names the flags.
    """
    allowed = RUNTIMES[runtime].start
    if dtype not in allowed:
        raise ValueError(f"--runtime {runtime} has no --dtype {dtype}; choose from {', '.join(allowed)}")


def with_runtime(
    model: MulTForMultiTaskDensePrediction, runtime: str, dtype: str = "float32", tasks: Iterable[str] | None = None, threads: int = 1
) -> Any:
    """A replacement for a model that predicts with another runtime or dtype.

    Args:
        model: in evaluation mode, in float32; it is modified, or becomes part of the result.
        runtime: a key of [`RUNTIMES`].
        dtype: a dtype that the runtime supports.
        tasks: names of the tasks that will be predicted; all by default.
        threads: number of threads of a runtime other than PyTorch.

    Raises:
        ValueError: on an unknown task.
        ImportError: if a package is missing; the message names the extra.
    """
    return RUNTIMES[runtime].start[dtype](model, tasks, threads)


__all__ = ["CACHE", "RUNTIMES", "ExportedModel", "check_runtime", "with_runtime"]
