"""Train several networks of one architecture at once: each operation computes all of them.

A small network spends most of a step on starting operations, while the GPU is idle. So a step of 15 networks in a stack takes little
longer than a step of one. Each network of a stack has its own weights, batches, learning rate and gradient norm, and trains as
`mult-hf train` would train it alone: with the same losses, task weights, parameter groups, AdamW, schedule and clipping. There is one
exception: batch normalisation of a pretrained encoder keeps its pretrained statistics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from mult_hf import MulTForMultiTaskDensePrediction
from mult_hf.model.losses import loss_function
from mult_hf.training.arguments import TrainingArguments
from mult_hf.training.optimization import learning_rate_schedule, parameter_groups

DEFAULTS_ONLY = ("gradient_accumulation_steps", "ema_decay", "weighting", "weighting_options", "mixed_precision", "torch_compile")
"""Settings of `mult-hf train` that a stack supports only at their defaults."""


@dataclass(frozen=True)
class Piece:
    """Parameters with the same optimizer settings, which are stored one after another in a vector.

    Args:
        names: names of the parameters.
        shapes: shapes of the parameters.
    """

    names: list[str]
    shapes: list[torch.Size]

    def unpacked(self, vectors: Tensor) -> dict[str, Tensor]:
        """Split the vectors of all networks, (networks, values), into parameters by name, (networks, *shape) each."""
        parts = vectors.split([shape.numel() for shape in self.shapes], dim=1)
        return {name: part.view(len(vectors), *shape) for name, shape, part in zip(self.names, self.shapes, parts)}


class Stack:
    """Networks of one architecture that train together.

    Args:
        models: networks of one configuration; their weights are copied. The first one is modified.
        learning_rates: one per network.
        arguments: all other training settings.
        device: device to train on.

    Raises:
        ValueError: if the networks differ in more than weights, or a setting is not supported.
    """

    def __init__(
        self,
        models: Sequence[MulTForMultiTaskDensePrediction],
        learning_rates: Sequence[float],
        arguments: TrainingArguments,
        device: torch.device | str,
    ) -> None:
        check_stackable(models, learning_rates, arguments)
        self.arguments = arguments
        self.model = models[0].to(device).train()
        keep_statistics(self.model)
        self.model.set_attn_implementation("eager")  # the same equations; vmap has no gradient of the fused ones
        self.specs = self.model.config.task_specs
        self.buffers = dict(self.model.named_buffers())
        self.pieces: list[Piece] = []
        self.vectors: list[list[nn.Parameter]] = []  # per piece one vector per network
        self.optimizer = self._make_optimizer(models, learning_rates, device)
        self.schedule = learning_rate_schedule(
            self.optimizer,
            arguments.schedule,
            steps=arguments.max_steps,
            warmup_steps=arguments.warmup_steps,
            power=arguments.schedule_power,
        )

    def _make_optimizer(
        self, models: Sequence[nn.Module], learning_rates: Sequence[float], device: torch.device | str
    ) -> torch.optim.Optimizer:
        """Create the vectors, one per network and piece, and AdamW over them; networks with one learning rate share a parameter group."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        groups: dict[tuple[int, float], dict[str, Any]] = {}
        for position, (model, learning_rate) in enumerate(zip(models, learning_rates)):
            own = parameter_groups(
                model,
                learning_rate=learning_rate,
                weight_decay=self.arguments.weight_decay,
                encoder_factor=self.arguments.encoder_learning_rate_factor,
            )
            for number, group in enumerate(own):
                if position == 0:
                    self.pieces.append(Piece([names[id(p)] for p in group["params"]], [p.shape for p in group["params"]]))
                    self.vectors.append([])
                vector = nn.Parameter(parameters_to_vector(group["params"]).detach().to(device))
                self.vectors[number].append(vector)
                groups.setdefault((number, learning_rate), {**group, "params": []})["params"].append(vector)
        return torch.optim.AdamW(list(groups.values()), fused=torch.device(device).type == "cuda")

    def __len__(self) -> int:
        return len(self.vectors[0])

    def parameters(self) -> dict[str, Tensor]:
        """Parameters of all networks by name, (networks, *shape) each; gradients flow through them to the vectors."""
        stacked: dict[str, Tensor] = {}
        for piece, vectors in zip(self.pieces, self.vectors):
            stacked |= piece.unpacked(torch.stack(list(vectors)))
        return stacked

    def step(self, pixel_values: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One optimizer step of every network.

        Args:
            pixel_values: (networks, batch, 3, height, width).
            labels: per task (networks, batch, ...); a slice is the labels of one network.

        Returns:
            Unweighted losses by task, (networks,) each.
        """
        losses = self.backward(pixel_values, labels)
        self.clip()
        self.update()
        self.optimizer.zero_grad()
        return losses

    def clip(self) -> None:
        """Clip the gradient norm of each network."""
        for own in zip(*self.vectors):
            clip_grad_norm_(own, self.arguments.max_grad_norm or torch.inf)

    def update(self) -> None:
        """Take a step of the optimizer and of the learning rate schedule."""
        self.optimizer.step()
        self.schedule.step()

    def backward(self, pixel_values: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses, and the gradients of all vectors; arguments and result as for [`step`]."""
        predictions = torch.vmap(self._predict)(self.parameters(), pixel_values)
        losses = {task: self._losses(task, predictions[task], labels[task]) for task in self.specs}
        total = torch.stack([self.specs[task].weight * loss for task, loss in losses.items()]).sum(dim=0)  # (networks,)
        total.sum().backward()  # no network depends on the weights of another
        return {task: loss.detach() for task, loss in losses.items()}

    def gradient(self, number: int) -> dict[str, Tensor]:
        """Gradients of one network by the name of the parameter."""
        return {
            name: values[0]
            for piece, vectors in zip(self.pieces, self.vectors)
            for name, values in piece.unpacked(vectors[number].grad[None]).items()
        }

    def _predict(self, parameters: Mapping[str, Tensor], pixel_values: Tensor) -> dict[str, Tensor]:
        """Predictions of one network."""
        return functional_call(self.model, ({**parameters}, self.buffers), (pixel_values,)).predictions

    def _losses(self, task: str, predictions: Tensor, targets: Tensor) -> Tensor:
        """Losses of a task, (networks,)."""
        function = loss_function(self.specs[task])
        if self.specs[task].is_classification and predictions.device.type == "cpu":
            # On CPUs the loss checks the class ids, which vmap does not support.
            return torch.stack([function(*each) for each in zip(predictions, targets)])
        return torch.vmap(function)(predictions, targets)

    def network(self, number: int) -> MulTForMultiTaskDensePrediction:
        """One of the networks, in evaluation mode; the next call of this method overwrites its weights."""
        for piece, vectors in zip(self.pieces, self.vectors):
            named = dict(self.model.named_parameters())
            vector_to_parameters(vectors[number].detach(), [named[name] for name in piece.names])
        return self.model.eval()


def keep_statistics(model: nn.Module) -> None:
    """Let batch normalisation use its stored statistics, which networks of a stack could not update each for itself."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def check_stackable(
    models: Sequence[MulTForMultiTaskDensePrediction], learning_rates: Sequence[float], arguments: TrainingArguments
) -> None:
    """Check that a stack would train each network as if it were alone.

    Raises:
        ValueError: if the networks differ in more than weights, have dropout, or a setting in [`DEFAULTS_ONLY`] is not at its default.
    """
    if not models or len(models) != len(learning_rates):
        raise ValueError(f"{len(models)} networks and {len(learning_rates)} learning rates; give at least one network, and a rate for each")
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in models]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("the networks have parameters of different names or shapes; build all of them from one configuration")
    rates = ("drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob")
    random = {name: getattr(models[0].config, name) for name in rates if getattr(models[0].config, name)}
    default = TrainingArguments()
    changed = {name: getattr(arguments, name) for name in DEFAULTS_ONLY if getattr(arguments, name) != getattr(default, name)}
    if random or changed:
        raise ValueError(f"a stack trains without {random | changed}; leave these at their defaults, or train by `mult-hf train`")
