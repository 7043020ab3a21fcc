"""Make a model less certain on images that are unlike its training images: move its predictions towards their median.

    python examples/tools/calibrate.py --model outputs/indoor --dataset photographs/office --split validation --tasks depth reshading \
        --factor 0.9 --output_dir outputs/indoor-calibrated

A network that was trained on rendered rooms predicts as wide a range of depth for a photograph as for a rendering, though it is more often
wrong there, and the best prediction of a value that is known less well is nearer to the mean. As in Platt scaling, the last linear layer
changes: its outputs become `c + factor (outputs - c)`, where `c` is their median over the images of the data set. Labels are not used;
choose the factor by `mult-hf evaluate` on images that the model was not trained on. The model's card, if it has one, is copied with its
images and the record of the training, and says what was changed; results in its metadata no longer hold and are left out. `release.py`
can then measure and package the calibrated model. Each run calibrates anew: twice 0.9 is once 0.81.
"""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from torch import Tensor, nn

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.schema import load_rows
from mult_hf.evaluation.cards import before_outputs, public_name
from mult_hf.inference.loading import load_processor, load_whole_model

COPIED = ("metrics.json", "training.json", "LICENSE")
"""Files that are copied with the card, if the model has them: the record of its training, as a run or a release names it, and its
licence."""


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
        if Path(self.model).resolve() == self.output_dir.resolve():
            raise ValueError(f"--output_dir is {self.output_dir}, that of --model, whose weights would be lost; give another directory")


@torch.no_grad()
def median_outputs(
    model: MulTForMultiTaskDensePrediction, processor: MulTImageProcessor, rows: Dataset, tasks: Sequence[str]
) -> dict[str, Tensor]:
    """Median over images and positions of the outputs of each task's last linear layer, (channels,), float32.

    Raises:
        ValueError: if there is no column `image`, or a row has no image.
    """
    if "image" not in rows.column_names:
        raise ValueError(f"the data set has the columns {', '.join(rows.column_names)}; the images must be in a column called 'image'")
    outputs: dict[str, list[Tensor]] = {task: [] for task in tasks}
    hooks = [
        model.heads.tasks[task].projection.register_forward_hook(
            lambda layer, inputs, output, found=outputs[task]: found.append(output.flatten(0, -2).float())  # (positions, channels)
        )
        for task in outputs
    ]
    for number, row in enumerate(rows.select_columns("image")):
        if row["image"] is None:
            raise ValueError(f"row {number} has no image; choose rows that all have one")
        model(processor(row["image"], return_tensors="pt")["pixel_values"], tasks=list(tasks))
    for hook in hooks:
        hook.remove()
    return {task: torch.cat(found).median(dim=0).values for task, found in outputs.items()}


@torch.no_grad()
def shrink(layer: nn.Linear, centre: Tensor, factor: float) -> None:
    """Replace a layer's outputs by `centre + factor (outputs - centre)`."""
    layer.weight.mul_(factor)
    layer.bias.copy_(factor * layer.bias.float() + (1 - factor) * centre)  # half-precision weights are rounded once


def write_card(arguments: CalibrationArguments, centres: Mapping[str, Tensor]) -> None:
    """Copy the card of a model in a local directory and its files, and add what was changed; without a card, nothing is written."""
    path = Path(arguments.model) / "README.md"
    if not path.is_file():
        return
    card, old, new = ModelCard.load(path), public_name(arguments.model), arguments.output_dir.resolve().name
    card.data.model_name, card.data.eval_results = new, None
    card.text = card.text.replace(f"# {old}\n", f"# {new}\n", 1).replace(f'model="{old}"', f'model="{new}"')
    moved = "\n".join(f"- {task}: about {', '.join(f'{value:.4g}' for value in centre.tolist())}" for task, centre in centres.items())
    card.text = before_outputs(
        card.text,
        f"""## Calibration

All results above were measured before this step: the outputs of each task's last layer times {arguments.factor:g} about their
median on the split `{arguments.split}` of `{public_name(arguments.dataset)}` (`examples/tools/calibrate.py`):

{moved}
""",
    )
    card.save(arguments.output_dir / "README.md")
    for name in (*COPIED, *re.findall(r"\]\(([\w.-]+)\)", card.text)):  # links to files next to the card
        if (path.parent / name).is_file():
            shutil.copy2(path.parent / name, arguments.output_dir / name)


def main(argv: Sequence[str] | None = None) -> None:
    """Calibrate the tasks and save the model.

    Raises:
        ValueError: if the model lacks a task, a task is a classification, or a row has no image.
    """
    arguments = parse_arguments(CalibrationArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    model, processor = load_whole_model(arguments.model), load_processor(arguments.model)
    regressions = [task for task, spec in model.config.task_specs.items() if not spec.is_classification]
    unknown = [task for task in arguments.tasks if task not in regressions]
    if unknown:
        raise ValueError(f"--tasks has {unknown}; the model's regressions are {', '.join(regressions) or 'none'}")
    rows = load_rows(arguments.dataset, split=arguments.split)
    centres = median_outputs(model, processor, rows, arguments.tasks)
    for task, centre in centres.items():
        shrink(model.heads.tasks[task].projection, centre, arguments.factor)
        print(f"{task}: outputs of the last layer times {arguments.factor:g} about {[round(value, 4) for value in centre.tolist()]}")
    model.save_pretrained(arguments.output_dir)
    processor.save_pretrained(arguments.output_dir)
    write_card(arguments, centres)


if __name__ == "__main__":
    main()
