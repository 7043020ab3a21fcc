"""Make a model less certain on images that are unlike its training images: move its predictions towards their median.

    python examples/tools/calibrate.py --model outputs/indoor --dataset photographs/office --split validation --tasks depth reshading \
        --factor 0.9 --output_dir outputs/indoor-calibrated

A network that was trained on rendered rooms predicts as wide a range of depth for a photograph as for a rendering, though it is more often
wrong there, and the best prediction of a value that is known less well is nearer to the mean. As in Platt scaling, the last linear layer
changes: its outputs become `c + factor (outputs - c)`, where `c` is their median over the images of the data set. Labels are not used;
choose the factor by `mult-hf evaluate` on images that the model was not trained on.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor, nn

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.schema import load_rows
from mult_hf.inference.loading import load_processor, load_whole_model


@dataclass
class CalibrationArguments:
    """Model, images and factor; each field is a flag."""

    model: str = flag("outputs/mult-rooms", "directory or Hub id of the model")
    dataset: str = flag("examples/data/rooms-sample", "local directory or Hub id of the images")
    split: str = flag("validation", "split of the data set")
    tasks: list[str] = flag(["depth"], "tasks to calibrate: regressions")
    factor: float = flag(0.9, "factor of the distance from the median; 1 changes nothing")
    output_dir: Path = flag(Path("outputs/calibrated"), "output directory of model and processor")

    def __post_init__(self) -> None:
        check_bounds(self, {0: ["factor"]})


@torch.no_grad()
def median_outputs(
    model: MulTForMultiTaskDensePrediction, processor: MulTImageProcessor, rows: Dataset, tasks: Sequence[str]
) -> dict[str, Tensor]:
    """Median over images and positions of the outputs of each task's last linear layer, (channels,)."""
    outputs: dict[str, list[Tensor]] = {task: [] for task in tasks}
    hooks = [
        model.heads.tasks[task].projection.register_forward_hook(
            lambda layer, inputs, output, found=outputs[task]: found.append(output.flatten(0, -2))  # (positions, channels)
        )
        for task in tasks
    ]
    for row in rows:
        model(processor(row["image"], return_tensors="pt")["pixel_values"], tasks=list(tasks))
    for hook in hooks:
        hook.remove()
    return {task: torch.cat(found).median(dim=0).values for task, found in outputs.items()}


@torch.no_grad()
def shrink(layer: nn.Linear, centre: Tensor, factor: float) -> None:
    """Replace a layer's outputs by `centre + factor (outputs - centre)`."""
    layer.weight.mul_(factor)
    layer.bias.mul_(factor).add_((1 - factor) * centre)


def main(argv: Sequence[str] | None = None) -> None:
    """Calibrate the tasks and save the model.

    Raises:
        ValueError: if the model lacks a task, or a task is a classification.
    """
    arguments = parse_arguments(CalibrationArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    model, processor = load_whole_model(arguments.model), load_processor(arguments.model)
    regressions = [task for task, spec in model.config.task_specs.items() if not spec.is_classification]
    unknown = [task for task in arguments.tasks if task not in regressions]
    if unknown:
        raise ValueError(f"--tasks has {unknown}; the model's regressions are {', '.join(regressions)}")
    rows = load_rows(arguments.dataset, split=arguments.split)
    centres = median_outputs(model, processor, rows, arguments.tasks)
    for task, centre in centres.items():
        shrink(model.heads.tasks[task].projection, centre, arguments.factor)
        print(f"{task}: outputs of the last layer times {arguments.factor:g} about {[round(value, 4) for value in centre.tolist()]}")
    model.save_pretrained(arguments.output_dir)
    processor.save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    main()
