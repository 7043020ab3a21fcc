"""Benchmark of tiled predictions: how close they are to the whole image's, and how good, by the size of the tiles.

    mult-hf render rooms rooms512 --rooms 8 --validation_rooms 1 --test_rooms 6 --views 1 --size 512
    python examples/benchmarks/tiles.py --dataset rooms512

Prints a Markdown table. The first columns compare with the prediction of the whole image at the model's size: the share of pixels of the
same class, the mean relative difference of distances, and the mean angle between vectors. The others are metrics against the labels.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor

from mult_hf import ROOMS_TINY_CHECKPOINT, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.markdown import markdown_table
from mult_hf.data.schema import load_rows, load_task_specs
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import evaluate
from mult_hf.inference.predictor import Predictor, predict
from mult_hf.inference.scale import ViewSize
from mult_hf.inference.tiling import MIN_TILE, resized, tiled
from mult_hf.metrics import metrics_of
from mult_hf.metrics.statistics import angle_between
from mult_hf.model.activations import activation_of
from mult_hf.model.tasks import TaskSpec


@dataclass
class TileArguments:
    """Settings of the measurement; each field is a flag."""

    dataset: str = flag("rooms512", "data set whose images are larger than the model's input")
    split: str = flag("test", "split to measure")
    model: str = flag(ROOMS_TINY_CHECKPOINT, "directory or Hub id of the model; by default the small one in the package")
    tiles: list[int] = flag([344, 256, 192, 128, 64], "longer sides of tiles in pixels of the image, resized to the model's size")
    own_tiles: list[int] = flag([256, 128], "longer sides of tiles that keep their own size")
    sizes: list[int] = flag([160, 256], "sides to which the whole image is resized")
    threads: int = flag(1, "threads of torch")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ["threads"]})
        too_small = [side for side in (*self.tiles, *self.own_tiles, *self.sizes) if side < MIN_TILE]
        if too_small:
            raise ValueError(f"--tiles, --own_tiles and --sizes have {too_small}; the model needs at least {MIN_TILE} pixels per side")


def make_predictors(
    model: MulTForMultiTaskDensePrediction, view: ViewSize, arguments: TileArguments, *, canonical_camera: bool
) -> dict[str, Predictor]:
    """Predictors of images at their own size, by the flags of `mult-hf predict` that choose them; the first one is the reference."""
    plain = partial(predict, model)
    tiles = partial(tiled, plain, model.config.task_specs, batch_size=4, canonical_camera=canonical_camera)

    def whole(size: ViewSize) -> Predictor:
        return lambda pixel_values: plain(resized(pixel_values, size.of_image((pixel_values.shape[-2], pixel_values.shape[-1]))))

    return {
        "whole image (no flag)": whole(view),
        **{f"`--tile {side}`": tiles(side, view) for side in arguments.tiles},
        **{f"whole image at {side}": whole(view._replace(height=side, width=side)) for side in arguments.sizes},
        "`--image_size own`": plain,
        **{f"`--image_size own --tile {side}`": tiles(side, None) for side in arguments.own_tiles},
    }


def _percent_equal(one: Tensor, other: Tensor) -> float:
    return 100 * (one == other).float().mean().item()


def _percent_off(one: Tensor, other: Tensor) -> float:
    return 100 * ((one - other).abs() / other).mean().item()


def _degrees(one: Tensor, other: Tensor) -> float:
    return angle_between(one, other).nanmean().item()


def comparison_of(spec: TaskSpec) -> tuple[str, Callable[[Tensor, Tensor], float]] | None:
    """The heading and function that compare two finished maps of a task; None for tasks that are not compared."""
    if spec.is_classification:
        return f"{spec.name}, same class (%)", _percent_equal
    if activation_of(spec).gives_unit_vectors:
        return f"{spec.name}, angle (degrees)", _degrees
    return (f"{spec.name}, difference (%)", _percent_off) if spec.zoom_exponent else None


def compared(
    predictors: Mapping[str, Predictor], images: Sequence[Tensor], processor: MulTImageProcessor
) -> tuple[list[str], dict[str, list[float]]]:
    """Headings, and by predictor the means over all images of every comparison with the first predictor."""
    comparisons = {task: found for task, spec in processor.task_specs.items() if (found := comparison_of(spec))}
    sums = {name: [0.0] * len(comparisons) for name in predictors}
    for image in images:
        maps = {}
        for name, predictor in predictors.items():
            (maps[name],) = processor.post_process(predictor(image), [tuple(image.shape[-2:])])
        reference = next(iter(maps.values()))
        for name, found in maps.items():
            for column, (task, (_, compare)) in enumerate(comparisons.items()):
                sums[name][column] += compare(found[task]["prediction"], reference[task]["prediction"]) / len(images)
    return [heading for heading, _ in comparisons.values()], sums


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(TileArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    torch.set_num_threads(arguments.threads)
    model = MulTForMultiTaskDensePrediction.from_pretrained(arguments.model).eval()
    view = ViewSize.of_processor(MulTImageProcessor.from_pretrained(arguments.model).size)
    specs = measured_specs(model.config.task_specs, load_task_specs(arguments.dataset))
    processor = MulTImageProcessor.from_pretrained(arguments.model, do_resize=False, tasks=list(specs.values()))
    rows = load_rows(arguments.dataset, split=arguments.split)
    predictors = make_predictors(model, view, arguments, canonical_camera=processor.canonical_focal_length is not None)
    images = [processor(row["image"], return_tensors="pt")["pixel_values"] for row in rows]
    headings, comparisons = compared(predictors, images, processor)
    evaluations = evaluate(predictors, rows, MultiTaskCollator(processor), Accelerator(cpu=True), batch_size=1, per_image=False)
    names = [(task, metric) for task, spec in specs.items() for metric in metrics_of(spec)]
    header = ["input", *headings, *(f"{task} {metric}" for task, metric in names)]
    table = []
    for name, evaluation in evaluations.items():
        found = evaluation.compute()
        metrics = [f"{found[f'{task}/{metric}']:.4f}" for task, metric in names]
        table.append([name, *(f"{value:.1f}" for value in comparisons[name]), *metrics])
    print(f"{len(rows)} images\n\n{markdown_table(header, table)}")


if __name__ == "__main__":
    main()
