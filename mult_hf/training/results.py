"""The results of a finished run: the final evaluation, the model, `metrics.json`, the panel and the model card."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mult_hf.data.files import whole_file, write_text
from mult_hf.evaluation.cards import card_template, describe_data, eval_results, public_name, to_jsonable, write_card
from mult_hf.evaluation.report import example_panel, results_table, tasks_with_nan, tasks_without_label
from mult_hf.model.image_processing_base import MulTProcessingMixin
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction

from .arguments import as_text
from .checkpoints import describing_write_errors
from .distributed import peak_memory
from .loop import TrainingLoop
from .saving import save_model

_METRICS, _PANEL, _CARD = "metrics.json", "panel.png", "README.md"
_OF_WEIGHTS = (_METRICS, _PANEL, _CARD)
"""Files that describe the weights beside them."""

RESULTS = ("*.safetensors", "*.bin", "config.json", *_OF_WEIGHTS)
"""Patterns of the files that a run replaces in its directory at its end."""


@dataclass(frozen=True)
class Provenance:
    """Origin of data and weights, for the model card and `metrics.json`; it has no effect on training.

    Args:
        dataset: directory or Hub id of the data.
        train_split: split of the training rows.
        validation_split: split of the validation rows.
        start: description of the initial model.
        command: command that started the run.
        start_data: what the initial model was trained on, or by task; None if it was not, or that is not known.
    """

    dataset: str = "unnamed data"
    train_split: str = "train"
    validation_split: str = "validation"
    start: str = "the model that was passed in"
    command: str = "mult_hf.training.run.train(...)"
    start_data: str | Mapping[str, str] | None = None


def save_results(loop: TrainingLoop, provenance: Provenance) -> dict[str, Any]:
    """Save the final weights, evaluate them, and add metrics, panel and model card.

    The weights are saved first, so that an error in the evaluation does not lose them.

    Args:
        loop: the training loop after its last step.
        provenance: origin of data and weights.

    Returns:
        The contents of `metrics.json`: metrics by `"task/metric"` under `model` and `constant_baseline`, `gain_over_baseline` in
        percent, and facts about the run. Unknown metrics are NaN here and null in the file.

    Raises:
        OSError: if a file cannot be written.
        ValueError: if a validation row cannot be used.
    """
    directory = loop.arguments.output_dir
    with loop.final_weights() as model:
        if loop.accelerator.is_main_process and loop.has_trained:
            with describing_write_errors(directory, loop.checkpoints):
                for name in _OF_WEIGHTS:  # those of an earlier run's weights
                    (directory / name).unlink(missing_ok=True)
        save_model(loop.accelerator, model, loop.processor, directory, loop.checkpoints)
    measured = loop.evaluate()
    unknown = tasks_without_label(measured.model)
    table = results_table({"MulT": measured.model, "constant baseline": measured.baseline}, leave_out=unknown)
    if unknown:
        table += f"\n\nNot measured, because no validation row has a known label of it: {', '.join(unknown)}."
    if broken := tasks_with_nan(measured.model):
        table += f"\n\nNo number, because predictions of known pixels are NaN: {', '.join(broken)}."
    loop.accelerator.print(table)
    numbers = {
        "model": measured.model.compute(),
        "constant_baseline": measured.baseline.compute(),
        "gain_over_baseline": measured.gain,
        **facts(loop, provenance),
    }
    with loop.final_weights() as model:
        if loop.accelerator.is_main_process:
            panel = example_panel(model, loop.validation.rows, loop.validation.collator, loop.arguments.panel_rows)
            with describing_write_errors(directory, loop.checkpoints):
                write_text(directory / _METRICS, json.dumps(to_jsonable(numbers), indent=2) + "\n")
                with whole_file(directory / _PANEL) as unfinished:
                    panel.save(unfinished, "PNG")
                save_card(loop, model, provenance, numbers, table)
    return numbers


def facts(loop: TrainingLoop, provenance: Provenance) -> dict[str, Any]:
    """Facts about the run for `metrics.json` and the model card."""
    size, device = loop.processor.size, loop.accelerator.device
    return {
        "dataset": public_name(provenance.dataset),
        "split": provenance.validation_split,
        "evaluated_samples": len(loop.validation.rows),
        "train_samples": "streamed" if loop.batches.number_of_rows is None else loop.batches.number_of_rows,
        "image_size": f"shorter side {size['shortest_edge']}" if "shortest_edge" in size else f"{size['height']} x {size['width']}",
        "parameters": f"{sum(p.numel() for p in loop.module.parameters()):,}",
        "steps": loop.progress.step,
        "minutes": round(loop.progress.seconds / 60, 1),
        "peak_memory_mib": round(peak_memory(device)),
        "mixed_precision": loop.accelerator.mixed_precision,
        "processes": loop.accelerator.num_processes,
        "device": f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)",
        "best_step": loop.progress.best_step,
        "best_gain_over_baseline": loop.progress.best_gain,
        "arguments": as_text(loop.arguments),
    }


def camera_note(processor: MulTProcessingMixin) -> str | None:
    """What the card says of the camera that a canonical one is turned into; None without a canonical camera, and nothing ("") if the values
    of no task depend on the camera.
    """
    canonical = processor.canonical_focal_length
    if all(spec.zoom_exponent == 0 for spec in processor.task_specs.values()):
        return ""
    if canonical is None:
        return None
    return (
        f"Depth is learnt for a camera with a focal length of {canonical:g} pixels of the network's input, and is in metres if the image's "
        f"`focal_length` is given or in its EXIF; otherwise a field of view of {processor.assumed_field_of_view:g} degrees along the "
        "longer side is assumed. Results say which."
    )


def data_by_task(provenance: Provenance, dataset: str, kept: Sequence[str], taught: Sequence[str]) -> str | dict[str, str]:
    """What a model was trained on: one name if that is so for all its tasks, and otherwise by task, as far as it is known."""
    earlier = provenance.start_data
    of_kept = dict.fromkeys(kept, earlier) if isinstance(earlier, str) else {task: (earlier or {}).get(task) for task in kept}
    known = {task: name for task, name in of_kept.items() if name is not None} | dict.fromkeys(taught, dataset)
    if not known:
        return dataset
    is_one = len(set(known.values())) == 1 and len(known) == len(kept) + len(taught)
    return next(iter(known.values())) if is_one else known


def save_card(
    loop: TrainingLoop, model: MulTForMultiTaskDensePrediction, provenance: Provenance, numbers: dict[str, Any], table: str
) -> None:
    """Fill the template of model cards with the model, its data and its metrics."""
    arguments, config = loop.arguments, model.config
    kept, taught = list(loop.kept), [task for task in config.task_specs if task not in loop.kept]
    data_sets, camera = data_by_task(provenance, numbers["dataset"], kept, taught), camera_note(loop.processor)
    if kept and camera is None and not any(config.task_specs[task].zoom_exponent for task in taught):
        camera = ""  # of the data of before
    write_card(
        arguments.output_dir / _CARD,
        card_template(),
        config.task_specs,
        eval_results(numbers["model"], config.task_specs, numbers["dataset"], provenance.validation_split),
        data_sets,
        encoder=getattr(config.backbone_config, "backbone", None) or type(model.mult.backbone).__name__.removesuffix("Backbone"),
        known_data=None if data_sets == numbers["dataset"] else f"those of {describe_data(data_sets)}",
        kept=", ".join(kept),
        train_split=provenance.train_split,
        results_table=table,
        decoder=f"{config.decoder_type}, blocks {config.block_attention}" if config.block_attention else config.decoder_type,
        reference_task=(model.shares_attention and config.reference_task) or "none",
        start=provenance.start,
        batch_size=arguments.batch_size * arguments.gradient_accumulation_steps * numbers["processes"],
        learning_rate=arguments.learning_rate,
        weighting=arguments.weighting,
        seed=arguments.seed,
        command=provenance.command,
        camera_note=camera,
        **numbers,
    )


__all__ = ["Provenance", "save_results"]
