"""Task weightings that combine the gradients of single tasks with torchjd."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from mult_hf.model.tasks import TaskSpec
from mult_hf.model.weights import without_task

from .base import TaskWeighting, refuse_engines


class GradientWeighting(TaskWeighting):
    """Combines the tasks' gradients for the encoder's parameters with a method of torchjd (https://torchjd.org).

    Row t of the Jacobian J (tasks, parameters of the encoder) is the gradient of L_t. J is summed over micro-batches and averaged
    over processes. Then a torchjd weighting computes factors a_t from its Gramian J J^T, and the encoder's gradient is a^T J. Tasks
    whose row is 0 are left out. The methods do not depend on the scale of J, but torchjd's solvers treat small values as 0, so they
    get the Gramian divided by its mean diagonal.

    All parameters after the encoder get the sum of the tasks' gradients, as in `torchjd.autojac.mtl_backward`. These are each task's
    own parameters, and the reference task's queries, keys and position biases, which receive gradients from all losses.
    (`mtl_backward` itself is not used, because it requires that no feature map is computed from another one. This holds for
    transformers' Swin but not for most of timm's pyramids.)

    Args:
        name: see [`TaskWeighting`], also for `specs`.
        model: see [`TaskWeighting`]; its encoder is the module called `backbone`.
        weighting: name of a class in `torchjd.aggregation` that computes weights from a Gramian.
        options: options of this class.

    Raises:
        ImportError: if torchjd or a solver that the method needs is not installed.
        ValueError: if the model has no encoder.
    """

    writes_gradients = True

    def __init__(self, name: str, specs: Mapping[str, TaskSpec], model: nn.Module, *, weighting: str, **options: Any) -> None:
        super().__init__(name, specs, model)
        try:
            from torchjd import aggregation

            self._weighting = getattr(aggregation, weighting)(**options)
        except ImportError as error:
            raise ImportError(
                f"task weighting {name!r} needs torchjd and its solvers: pip install 'mult-hf[weighting]' ({error})"
            ) from error
        named = list(model.named_parameters())
        self._encoder = [parameter for path, parameter in named if _is_of_encoder(path)]
        self._others = [parameter for path, parameter in named if not _is_of_encoder(path)]
        if not self._encoder:
            raise ValueError(f"{type(model).__name__} has no module called backbone, which {name!r} needs; use task weighting 'fixed'")
        self._jacobian: Tensor | None = None  # (tasks, parameters of the encoder) since the last optimizer step
        self._factors = dict.fromkeys(self.fixed, 1.0)

    @property
    def weights(self) -> dict[str, float]:
        """f_t a_t of the last step: each task's weight in the encoder's gradient; for other parameters its weight is f_t."""
        return {task: weight * self._factors[task] for task, weight in self.fixed.items()}

    def backward(
        self,
        losses: Mapping[str, Tensor],
        features: Sequence[Tensor],
        accelerator: Accelerator,
        shares: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """See [`TaskWeighting.backward`]; the returned total uses the fixed weights, because a_t apply to gradients only.

        Part of the losses' graph is kept until they are deleted.

        Raises:
            ValueError: if there are no losses or losses of unknown tasks, if the encoder is frozen, or with FSDP, DeepSpeed or loss
                scaling.
        """
        self._check(losses)
        refuse_engines(self.name, accelerator)
        shares = shares or {}
        weighted = {task: self.fixed[task] * shares.get(task, 1.0) * loss for task, loss in losses.items()}
        self._differentiate({task: loss / accelerator.gradient_accumulation_steps for task, loss in weighted.items()})
        if accelerator.sync_gradients:
            self._write(accelerator)
        return torch.stack([*weighted.values()]).sum().detach()

    def _trained(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The trainable parameters of the encoder, and the other trainable parameters."""
        encoder = [parameter for parameter in self._encoder if parameter.requires_grad]
        if not encoder:
            raise ValueError(f"the encoder is frozen, so {self.name!r} has no gradients to combine; use task weighting 'fixed'")
        return encoder, [parameter for parameter in self._others if parameter.requires_grad]

    def _differentiate(self, losses: Mapping[str, Tensor]) -> None:
        """Add the gradients of each loss: a row of the Jacobian for the encoder, `.grad` for the rest."""
        encoder, others = self._trained()
        if self._jacobian is None:
            size = sum(parameter.numel() for parameter in encoder)
            self._jacobian = torch.zeros(len(self.fixed), size, device=encoder[0].device)
        last = list(losses)[-1]
        rows = {task: row for row, task in enumerate(self.fixed)}
        for task, loss in losses.items():
            # All losses share the encoder and the reference task's projections.
            gradients = torch.autograd.grad(loss, encoder + others, retain_graph=task != last, allow_unused=True)
            self._jacobian[rows[task]] += _flat(gradients[: len(encoder)], encoder)
            for parameter, gradient in zip(others, gradients[len(encoder) :]):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _write(self, accelerator: Accelerator) -> None:
        """Combine the rows of the Jacobian into the encoder's gradients."""
        encoder, others = self._trained()
        jacobian, self._jacobian = cast(Tensor, self._jacobian), None
        if accelerator.num_processes > 1:
            jacobian = accelerator.reduce(jacobian, "mean")
            _set_gradients(others, accelerator.reduce(_flat([parameter.grad for parameter in others], others), "mean"))
        factors = self._combine((jacobian @ jacobian.T).cpu()).to(jacobian.device)
        factors = broadcast(factors)  # some methods draw random numbers, which would differ between processes
        _set_gradients(encoder, factors @ jacobian)
        self._factors = dict(zip(self.fixed, factors.tolist()))

    def _combine(self, gramian: Tensor) -> Tensor:
        """Factors (tasks,) from the Gramian (tasks, tasks) of the tasks that have a gradient; 0 for the others."""
        known = gramian.diagonal() != 0
        factors = torch.zeros(len(gramian))
        if known.any():
            gramian = gramian[known][:, known]
            factors[known] = self._weighting(gramian / gramian.diagonal().mean())
        return factors

    def _state(self) -> dict[str, Any]:
        return {"factors": self._factors}

    def _load(self, state: dict[str, Any]) -> None:
        self._factors = state["factors"]


def _is_of_encoder(path: str) -> bool:
    return "backbone" in without_task(path).split(".")


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> Tensor:
    """One float32 vector; zeros where a parameter has no gradient."""
    pairs = zip(gradients, parameters)
    return torch.cat([(torch.zeros_like(p) if gradient is None else gradient).flatten().float() for gradient, p in pairs])


def _set_gradients(parameters: Sequence[nn.Parameter], vector: Tensor) -> None:
    """The inverse of `_flat`."""
    for parameter, part in zip(parameters, vector.split([parameter.numel() for parameter in parameters])):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)
