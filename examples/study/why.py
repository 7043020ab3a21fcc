"""Analyse the attention maps of trained networks: how much they differ, and which tasks depend on them.

    python -m examples.study.why --plan examples/study/ablations/main_table.yaml --weights outputs/weights --output outputs/why.json

The weights are those that `train_stacks --keep_weights` wrote. Three measurements on validation views:

- distances: total variation between attention maps, averaged over heads first, because the heads of different networks have no common
  order; 0 for equal maps, 1 for maps that attend to different tokens.
- replaced: the metrics when the maps of the last block of every stage are replaced at inference.
- corrupted: the metrics on images with noise or blur.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli import arguments as command_line
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.files import whole_file
from mult_hf.evaluation.cards import to_jsonable
from mult_hf.evaluation.loop import evaluate, evenly_spread
from mult_hf.inference.predictor import Predictor, predict
from mult_hf.model.decoder_mult import MulTDecoder, SharedWindowAttention

from . import decoders, rooms  # noqa: F401  (decoders registers the study's own)
from .ablation import slug
from .networks import Network
from .train_stacks import StudyArguments, new_network, processor_of, read_plan, split_rows

MULT = "MulT with skip"
"""The row whose shared map is also replaced by the maps of other networks."""

MASKED = -50.0
"""Scores below this belong to pairs of tokens that the mask of the cyclic shift separates."""

UNREACHABLE = 1e-20
"""Attention below this is attention to a masked token."""

StageMaps = list[dict[str, Tensor]]
"""Per stage, the attention maps by the task that computes them, (batch, windows, heads, tokens, tokens) each."""

Replacement = Callable[[int, str, Tensor, Tensor], Tensor]
"""Function of the stage, the reference task, its map, and the bias of its scores; returns the map to use instead."""


@dataclass
class WhyArguments:
    """Which networks are analysed."""

    plan: Path = field(metadata={"help": "YAML file of the networks"})
    weights: Path = field(metadata={"help": "directory of `train_stacks --keep_weights`"})
    output: Path = command_line.flag(Path("outputs/study/why.json"), "JSON file that is written")
    dataset: str | None = command_line.flag(None, "data set to use instead of the plan's")
    only: list[str] | None = command_line.flag(None, "names of the networks to measure; by default all whose weights were kept")
    max_images: int = command_line.flag(90, "validation views to use, evenly spread")

    def __post_init__(self) -> None:
        command_line.check_bounds(self, {2: ["max_images"]})


# --- maps of a network ---


def last_attentions(model: MulTForMultiTaskDensePrediction) -> list[SharedWindowAttention]:
    """The attention of the last block of every decoder stage, coarsest first; empty for decoders of another kind."""
    decoder = next((module for module in model.modules() if isinstance(module, MulTDecoder)), None)
    return [] if decoder is None else [stage.blocks[-1].attention for stage in decoder.stages]


@torch.no_grad()
def attention_maps(model: MulTForMultiTaskDensePrediction, pixel_values: Tensor) -> StageMaps:
    """The maps of [`last_attentions`] for a batch (images, 3, height, width)."""
    found: StageMaps = []
    hooks = [attention.register_forward_hook(lambda *call: found.append(call[-1][1])) for attention in last_attentions(model)]
    try:
        model(pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def replaced(model: MulTForMultiTaskDensePrediction, replacement: Replacement) -> Iterator[None]:
    """Replace the maps in the [`last_attentions`] of a network within a `with` block."""
    attentions = last_attentions(model)
    for stage, attention in enumerate(attentions):
        attention.attention_map = _replacing(attention, stage, replacement, list(model.config.task_specs))
    try:
        yield
    finally:
        for attention in attentions:
            del attention.attention_map  # restores the method of the class


def _replacing(attention: SharedWindowAttention, stage: int, replacement: Replacement, tasks: list[str]) -> Callable[..., Tensor]:
    """A replacement for `attention_map`, which every forward pass calls once per reference task, in the same order."""
    references = list(attention.tasks_by_reference(tasks))
    calls, original = [0], attention.attention_map

    def attention_map(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        reference = references[calls[0] % len(references)]
        calls[0] += 1
        return replacement(stage, reference, original(query, key, bias), bias)

    return attention_map


def uniform(stage: int, reference: str, own: Tensor, bias: Tensor) -> Tensor:
    """Equal attention to all tokens of the window that the shift mask allows."""
    return torch.where(bias < MASKED, bias, 0).softmax(dim=-1).expand_as(own)


def position_only(stage: int, reference: str, own: Tensor, bias: Tensor) -> Tensor:
    """Attention from the position bias alone, without queries and keys: the same for every image."""
    return bias.softmax(dim=-1).expand_as(own)


def of_another_image(stage: int, reference: str, own: Tensor, bias: Tensor) -> Tensor:
    """The map of the image half a batch away, which shows another room."""
    return own.roll(len(own) // 2, dims=0)


def predicted_with(model: MulTForMultiTaskDensePrediction, replacement: Replacement, pixel_values: Tensor) -> dict[str, Tensor]:
    """Predictions of a network with replaced maps."""
    with replaced(model, replacement):
        return predict(model, pixel_values)


def predicted_with_maps_of(
    model: MulTForMultiTaskDensePrediction, other: MulTForMultiTaskDensePrediction, task: str | None, pixel_values: Tensor
) -> dict[str, Tensor]:
    """Predictions with the maps that another network computes for the same images: those of `task`, or its shared ones if that is None."""
    maps = attention_maps(other, pixel_values)
    return predicted_with(model, lambda stage, *_: maps[stage][task or next(iter(maps[stage]))], pixel_values)


# --- distances ---


def head_means(model: MulTForMultiTaskDensePrediction, pixel_values: Tensor) -> StageMaps:
    """Maps averaged over heads, (images, windows, tokens, tokens), on the CPU."""
    return [{reference: values.mean(dim=2).cpu() for reference, values in stage.items()} for stage in attention_maps(model, pixel_values)]


def distance(first: Tensor, second: Tensor) -> float:
    """Total variation between two maps (..., tokens, tokens), averaged over queries; from 0 to 1."""
    return float((first - second).abs().sum(dim=-1).mean() / 2)


def pairwise_distances(maps: Mapping[tuple[str, int], StageMaps]) -> list[dict[str, Any]]:
    """Distances between pairs of maps, within networks and between them, and of each map from uniform attention.

    Args:
        maps: head means by row and seed.

    Returns:
        One record per stage, pair of networks and pair of tasks.
    """
    records = []
    stages = len(next(iter(maps.values())))
    for stage in range(stages):
        entries = [(row, seed, task, values) for (row, seed), found in maps.items() for task, values in found[stage].items()]
        for (row, seed, task, values), (row2, seed2, task2, values2) in combinations(entries, 2):
            if seed == seed2 or (row, task) == (row2, task2):  # no table uses other pairs
                pair = {"rows": [row, row2], "seeds": [seed, seed2], "tasks": [task, task2]}
                records.append({"stage": stage, **pair, "distance": distance(values, values2)})
        for row, seed, task, values in entries:
            allowed = (values > UNREACHABLE).float()
            even = allowed / allowed.sum(dim=-1, keepdim=True)
            pair = {"rows": [row, "uniform"], "seeds": [seed, seed], "tasks": [task, task]}
            records.append({"stage": stage, **pair, "distance": distance(values, even)})
    return records


# --- corrupted images ---


def noisy(strength: float, pixel_values: Tensor, processor: MulTImageProcessor) -> Tensor:
    """Add Gaussian noise whose standard deviation is a share of the image's range; every call adds the same noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(pixel_values.shape, generator=generator).to(pixel_values.device)
    return pixel_values + strength * noise / torch.tensor(processor.image_std, device=pixel_values.device).view(3, 1, 1)


def blurred(strength: float, pixel_values: Tensor, processor: MulTImageProcessor) -> Tensor:
    """Blur with a Gaussian whose standard deviation is in pixels."""
    return gaussian_blur(pixel_values, kernel_size=2 * round(3 * strength) + 1, sigma=strength)


CORRUPTIONS: dict[str, Callable[[Tensor, MulTImageProcessor], Tensor]] = {
    "noise 0.05": partial(noisy, 0.05),
    "noise 0.1": partial(noisy, 0.1),
    "noise 0.2": partial(noisy, 0.2),
    "blur 1": partial(blurred, 1.0),
    "blur 2": partial(blurred, 2.0),
}
"""Functions that corrupt images, by name."""


# --- all networks ---


class Gallery:
    """The networks whose weights were kept.

    Args:
        networks: networks of the plan.
        weights: directory of the weights.
        device: device to load the networks onto.
    """

    def __init__(self, networks: Sequence[Network], weights: Path, device: torch.device) -> None:
        self.networks = {network.name: network for network in networks if (weights / slug(network.name)).is_dir()}
        self.weights, self.device = weights, device

    def seeds(self, name: str) -> list[int]:
        """Seeds of a network, in ascending order."""
        return sorted(int(file.stem) for file in (self.weights / slug(name)).glob("*.safetensors"))

    def load(self, name: str, seed: int) -> MulTForMultiTaskDensePrediction:
        """A network with its weights, in evaluation mode."""
        flags = self.networks[name].parsed()
        model = new_network(flags, processor_of(flags), seed)
        state = load_file(self.weights / slug(name) / f"{seed}.safetensors")
        model.load_state_dict({key: values.float() if values.is_floating_point() else values for key, values in state.items()})
        return model.to(self.device).eval()


def variants(
    model: MulTForMultiTaskDensePrediction, processor: MulTImageProcessor, others: Mapping[str, MulTForMultiTaskDensePrediction]
) -> dict[str, Predictor]:
    """All ways to run a network, by name.

    Args:
        model: the network.
        processor: image processor with its tasks.
        others: other networks with a shared map, by the name of the variant that uses their map; ignored if the network has own maps.
    """
    found: dict[str, Predictor] = {"as trained": partial(predict, model)}
    found |= {name: lambda x, change=change: predict(model, change(x, processor)) for name, change in CORRUPTIONS.items()}
    attentions = last_attentions(model)
    if not attentions:
        return found
    simple = {"uniform": uniform, "position only": position_only, "another image's": of_another_image}
    found |= {f"maps: {name}": partial(predicted_with, model, replacement) for name, replacement in simple.items()}
    references = attentions[0].tasks_by_reference(model.config.task_specs)
    if len(references) > 1:
        found |= {f"maps: all {task}": partial(predicted_with_maps_of, model, model, task) for task in references}
    else:
        found |= {f"maps: {name}": partial(predicted_with_maps_of, model, other, None) for name, other in others.items()}
    return found


def analyse(gallery: Gallery, only: Sequence[str] | None, max_images: int, write: Callable[[dict[str, Any]], None]) -> None:
    """Measure networks of a gallery.

    Args:
        gallery: the networks.
        only: names of the networks to measure, None for all; distances always include networks with a shared map.
        max_images: number of validation views.
        write: called with all results so far: with the distances first, then after each network.
    """
    wanted = [name for name in gallery.networks if only is None or name in only]
    shared = [name for name in gallery.networks if name == MULT or name.startswith("reference ")]
    joint = [name for name in dict.fromkeys(wanted + shared) if not gallery.networks[name].flags.get("tasks")]
    results: dict[str, Any] = {"distances": distances(gallery, joint, max_images), "metrics": []}
    write(results)
    for name in wanted:
        for seed in gallery.seeds(name):
            results["metrics"].append({"row": name, "seed": seed, "values": measured(gallery, name, seed, shared, max_images)})
            write(results)


def views(network: Network, max_images: int) -> tuple[MulTImageProcessor, list[dict[str, Any]]]:
    """A network's processor, and evenly spread validation views."""
    flags = network.parsed()
    rows = split_rows(flags.dataset, flags.validation_split)
    return processor_of(flags), [rows[number] for number in evenly_spread(len(rows), max_images)]


def distances(gallery: Gallery, names: Sequence[str], max_images: int) -> list[dict[str, Any]]:
    """Distances between the maps of networks, and within them."""
    maps: dict[tuple[str, int], StageMaps] = {}
    for name in names:
        processor, rows = views(gallery.networks[name], max_images)
        pixel_values = processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"].to(gallery.device)
        found = {(name, seed): head_means(gallery.load(name, seed), pixel_values) for seed in gallery.seeds(name)}
        maps |= {key: means for key, means in found.items() if means}
    return pairwise_distances(maps) if maps else []


def measured(gallery: Gallery, name: str, seed: int, shared: Sequence[str], max_images: int) -> dict[str, dict[str, float]]:
    """The metrics of all variants of one network."""
    processor, rows = views(gallery.networks[name], max_images)
    others = {}
    if name == MULT:
        seeds = gallery.seeds(name)
        others = {"another seed's": gallery.load(name, seeds[(seeds.index(seed) + 1) % len(seeds)])} if len(seeds) > 1 else {}
        others |= {f"{other}'s": gallery.load(other, seed) for other in shared if other != name and seed in gallery.seeds(other)}
    runs = variants(gallery.load(name, seed), processor, others)
    found = evaluate(
        {key: on(gallery.device, run) for key, run in runs.items()},
        rows,
        collator=MultiTaskCollator(processor),
        accelerator=Accelerator(cpu=gallery.device.type == "cpu"),
        batch_size=max_images,
        progress=False,
        per_image=False,
    )
    return {key: evaluation.compute() for key, evaluation in found.items()}


def on(device: torch.device, run: Predictor) -> Predictor:
    """A predictor that computes on a device and returns maps on the CPU."""
    return lambda pixel_values: {task: values.cpu() for task, values in run(pixel_values.to(device)).items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Analyse the networks that the command line names."""
    arguments = command_line.parse_arguments(WhyArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = read_plan(arguments.plan, StudyArguments(plan=arguments.plan, dataset=arguments.dataset))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)

    def write(results: dict[str, Any]) -> None:
        with whole_file(arguments.output) as unfinished:
            unfinished.write_text(json.dumps(rooms.compact(to_jsonable(results))) + "\n")

    analyse(Gallery(plan.networks, arguments.weights, device), arguments.only, arguments.max_images, write)


if __name__ == "__main__":
    main()
