"""Fingerprint of a run's rows, with which a resumed run detects that its data changed."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset, Image
from transformers.image_utils import SizeDict

from mult_hf.model.configuration_mult import MulTConfig
from mult_hf.model.image_processing_base import MulTProcessingMixin
from mult_hf.model.tasks import TaskSpec

_ROWS_AT_ONCE = 64


def describe_data(accelerator: Accelerator, **splits: Dataset) -> dict[str, str]:
    """Number of rows and digest of their contents per split, the same in every process; only the main process reads the rows."""
    found = [{name: f"{len(rows)} rows, {fingerprint(rows)}" for name, rows in splits.items()} if accelerator.is_main_process else None]
    return broadcast_object_list(found)[0]


SHOWN = ("name", "description", "unit", "colormap", "transformers_task")
"""Fields of an entry that affect neither targets nor weights nor metrics."""


def describe_entries(specs_by_source: Sequence[Mapping[str, TaskSpec]]) -> dict[str, str]:
    """Every field that says what a task's stored maps mean and how it is learnt: `"task/field"` -> value.

    Equal entries have equal descriptions, however their numbers are written. Of the metrics, only the first chooses the best model.

    Args:
        specs_by_source: entries by task, for each data set of a mixture, or for the only one.
    """
    found: dict[str, str] = {}
    for number, specs in enumerate(specs_by_source):
        source = f"data set {number + 1}, " if len(specs_by_source) > 1 else ""
        for task, spec in specs.items():
            entry = spec.to_dict()
            encoding = entry.pop("encoding") | {"unknown": sorted(spec.encoding.unknown)}
            fields = {**entry, "metrics": spec.metrics[:1], **{f"encoding/{name}": value for name, value in encoding.items()}}
            found |= {f"{source}{task}/{name}": _plain(value) for name, value in fields.items() if name not in SHOWN}
    return found


_OF_PROCESSOR = (
    "do_resize",
    "size",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_reduce_labels",
    "canonical_focal_length",
    "assumed_field_of_view",
)
_OF_MODEL = (
    "decoder_type",
    "block_attention",
    "reference_task",
    "decoder_num_attention_heads",
    "decoder_window_size",
    "hidden_act",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "drop_path_rate",
)

_OF_BACKBONE = ("hidden_act", "layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "window_size")


def describe_model(processor: MulTProcessingMixin, config: MulTConfig) -> dict[str, str]:
    """What a model gets to see and computes, as far as its weights do not tell: `"processor/size"`, `"model/drop_path_rate"` -> value.

    Args:
        processor: the image processor.
        config: of the model.
    """
    found = {f"processor/{name}": getattr(processor, name) for name in _OF_PROCESSOR}
    found |= {f"model/{name}": getattr(config, name) for name in _OF_MODEL}
    found |= {f"model/backbone/{name}": getattr(config.backbone_config, name, None) for name in _OF_BACKBONE}
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> str:
    """Text of a value, in which 1 and 1.0 are equal, and so are lists and tuples, and the ways to write a size."""
    if isinstance(value, (Mapping, SizeDict)):
        return f"{{{', '.join(f'{key}: {_plain(each)}' for key, each in sorted(dict(value).items()) if each is not None)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_plain, value))}]"
    return str(float(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def fingerprint(rows: Dataset) -> str:
    """16 hexadecimal digits that depend on the names, the order and every value of the rows, but not on where they are stored.

    Args:
        rows: rows to read once from start to end. If rows contain paths of images, the files are read.
    """
    hashed = hashlib.blake2b(digest_size=8)
    for column in sorted(rows.column_names):
        values = rows.select_columns([column]).with_format("arrow")
        is_image = isinstance(rows.features[column], Image)
        hashed.update(repr((column, str(values.features[column]))).encode())
        for table in values.iter(_ROWS_AT_ONCE):
            if is_image:
                for cell in table[column].to_pylist():
                    _update(hashed, _image_bytes(cell))
            else:
                _update(hashed, _arrow_bytes(table))
    return hashed.hexdigest()


def _update(hashed: Any, contents: bytes) -> None:
    """Hash the contents with their length, so that bytes moved from one value to the next change the result."""
    hashed.update(len(contents).to_bytes(8, "big"))
    hashed.update(contents)


def _image_bytes(cell: dict[str, Any] | None) -> bytes:
    """An encoded image, or its path if it has neither bytes nor a local file (a URL, for example)."""
    if cell is None:
        return b""
    if cell["bytes"] is not None:
        return cell["bytes"]
    path = Path(cell["path"])
    return path.read_bytes() if path.is_file() else cell["path"].encode()


def _arrow_bytes(table: pa.Table) -> bytes:
    """The values of a table in one chunk, without its schema's metadata; copied, because a slice has different offsets."""
    plain = table.replace_schema_metadata(None).take(pa.array(range(len(table)))).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain.schema) as stream:
        stream.write_table(plain)
    return sink.getvalue().to_pybytes()


__all__ = ["describe_data", "describe_entries", "describe_model", "fingerprint"]
