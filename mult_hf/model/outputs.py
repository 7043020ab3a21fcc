"""Outputs of the models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class MulTModelOutput(ModelOutput):
    """Output of [`MulTModel`].

    Args:
        last_hidden_state: the encoder's coarsest feature map, (batch, channels, height / 32, width / 32).
        task_features: per task its finest stream, (batch, channels, height / 4, width / 4).
        hidden_states: the encoder's feature maps, finest first, (batch, channels, height, width); if requested. None for stages
            that were not requested.
        task_hidden_states: per task its stream after each decoder stage, finest first like `hidden_states`; if requested.
        attentions: the map of each shared block, (batch, windows, heads, tokens, tokens), in the order in which they run; if
            requested. Blocks without sharing contribute none.
    """

    # ModelOutput unpacks a single dict in its first field, so the first field is a tensor.
    last_hidden_state: Tensor | None = None
    task_features: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    task_hidden_states: dict[str, tuple[Tensor | None, ...]] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MulTDensePredictionOutput(ModelOutput):
    """Output of [`MulTForMultiTaskDensePrediction`].

    Args:
        loss: weighted sum of the task losses, scalar; if labels were given.
        predictions: per task (batch, channels, height, width) float32 at the size of `pixel_values`, in the target's own space
            (metres, unit vectors, [0, 1]); logits for classification.
        task_losses: per labelled task its own, unweighted loss, scalar; if labels were given.
        classifications: those of the predictions that are logits of classes, the same tensors; if there are any. What rebuilds the outputs
            from their fields (mixed precision, several devices, pickling) thus keeps the tasks' kinds.
        hidden_states: see [`MulTModelOutput`].
        task_hidden_states: see [`MulTModelOutput`].
        attentions: see [`MulTModelOutput`].

    Each prediction can also be read under the flat name that transformers' models of one task use: `outputs.predicted_depth` for a
    regression, `outputs.segmentation_logits` for a classification, whatever the tasks are called.
    """

    loss: Tensor | None = None
    predictions: dict[str, Tensor] | None = None
    task_losses: dict[str, Tensor] | None = None
    classifications: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    task_hidden_states: dict[str, tuple[Tensor | None, ...]] | None = None
    attentions: tuple[Tensor, ...] | None = None  # the last field, as in transformers' outputs

    def __getitem__(self, key: str | int | slice) -> Any:
        """A field by its name or number.

        Raises:
            ValueError: on `"logits"`, which Trainer reads for label smoothing.
        """
        if key == "logits":
            raise ValueError(
                f"the outputs have {list(self)} and no {key!r}; set Trainer's label_smoothing_factor to 0, which needs the logits of one "
                "classification"
            )
        return super().__getitem__(key)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order, without `classifications`, which `predictions` contains."""
        return tuple(self[field] for field in self if field != "classifications")

    def __getattr__(self, name: str) -> Tensor:
        """A prediction under its flat name.

        Raises:
            AttributeError: if there is no such prediction.
        """
        classifications, predictions = (self.__dict__.get(field) or {} for field in ("classifications", "predictions"))
        flat = {f"{task}_logits" if task in classifications else f"predicted_{task}": maps for task, maps in predictions.items()}
        if name not in flat:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; its predictions are {', '.join(flat)}")
        return flat[name]


def classifications_among(predictions: Mapping[str, Tensor], entries: Iterable[Mapping[str, Any]]) -> dict[str, Tensor] | None:
    """Those predictions whose entries, as in `config.json`, are classifications; None if there are none."""
    kinds = {entry["name"]: entry["kind"] for entry in entries}
    return {task: maps for task, maps in predictions.items() if kinds[task] == "classification"} or None


def selected_stages(maps: Sequence[Tensor], which: bool | int | Iterable[int]) -> tuple[Tensor | None, ...]:
    """All maps, or only those of the stages listed in `output_hidden_states`, with None for the others, as in transformers' encoders.

    Raises:
        ValueError: if there is no such stage.
    """
    if isinstance(which, bool):
        return tuple(maps)
    stages = list(which) if isinstance(which, Iterable) else [which]
    if not all(isinstance(stage, Integral) and -len(maps) <= stage < len(maps) for stage in stages):
        raise ValueError(f"output_hidden_states={stages}; the model has stages 0 (the finest) to {len(maps) - 1}; give whole numbers")
    chosen = {stage % len(maps) for stage in stages}
    return tuple(each if stage in chosen else None for stage, each in enumerate(maps))


__all__ = ["MulTDensePredictionOutput", "MulTModelOutput", "classifications_among", "selected_stages"]
