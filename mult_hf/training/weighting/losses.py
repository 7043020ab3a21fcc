"""Task weightings that learn from losses: uncertainty, dynamic weight averaging, GradNorm.

f_t is a task's fixed weight ([`TaskSpec.weight`]) and L_t its loss times f_t. A loss of exactly 0 means that no pixel of the task was
known in the batch, so it changes nothing, and neither does one that is not finite. Losses are averaged over the micro-batches and
processes in which the task is known, each with its share of the task's labels, so that every process computes the same weights.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from mult_hf.model.tasks import TaskSpec

from .base import TaskWeighting, refuse_engines


class _ObservingWeighting(TaskWeighting, ABC):
    """A weighting that learns from the losses: it sums them on the device, and reads the sums once per optimizer step."""

    def __init__(self, name: str, specs: Mapping[str, TaskSpec], model: nn.Module) -> None:
        super().__init__(name, specs, model)
        self._sums: Tensor | None = None  # (statistics, tasks) since the last optimizer step

    def _observe(
        self, losses: Mapping[str, Tensor], features: Sequence[Tensor], accelerator: Accelerator, shares: Mapping[str, Tensor]
    ) -> None:
        statistics = self._statistics(losses, features, accelerator, shares)
        self._sums = statistics if self._sums is None else self._sums + statistics

    def _statistics(
        self, losses: Mapping[str, Tensor], features: Sequence[Tensor], accelerator: Accelerator, shares: Mapping[str, Tensor]
    ) -> Tensor:
        """(statistics, tasks) values of a micro-batch: share times L_t, and the share, which is 0 if nothing is known.

        A loss that is not finite is left out.
        """
        nothing = torch.zeros((), device=accelerator.device)
        values = torch.stack([self.fixed[task] * losses[task].detach().float() if task in losses else nothing for task in self.fixed])
        values = values.nan_to_num(nan=0, posinf=0, neginf=0)  # one would spoil what is learnt for good
        share = torch.stack([torch.as_tensor(shares.get(task, 1.0), device=accelerator.device) for task in self.fixed])
        return torch.stack([share * values, share * (values != 0)])

    def _update(self, accelerator: Accelerator) -> None:
        sums, self._sums = accelerator.reduce(self._sums, "sum").double().cpu(), None
        rows = dict(zip(self.fixed, sums.T.tolist()))
        self._learn({task: statistics for task, statistics in rows.items() if statistics[1]})

    @abstractmethod
    def _learn(self, sums: Mapping[str, list[float]]) -> None:
        """Update the weights from sums of `_statistics` over micro-batches and processes, for tasks with a known label in any."""


class _LogFactors:
    """Numbers v_t, initially 0, with one Adam optimizer per task, so that those without a gradient do not change."""

    def __init__(self, tasks: Sequence[str], learning_rate: float) -> None:
        self.values = {task: torch.zeros((), dtype=torch.float64, requires_grad=True) for task in tasks}
        self.optimizer = torch.optim.Adam(self.values.values(), lr=learning_rate)

    def step(self, gradients: Mapping[str, float]) -> None:
        for task, value in self.values.items():
            value.grad = torch.tensor(gradients[task], dtype=torch.float64) if task in gradients else None
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"values": {task: value.item() for task, value in self.values.items()}, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for task, value in self.values.items():
            value.data.fill_(state["values"][task])
        self.optimizer.load_state_dict(state["optimizer"])


class UncertaintyWeighting(_ObservingWeighting):
    """Kendall et al. (https://arxiv.org/abs/1705.07115, section 3.2): a learnt log-variance s_t for each task.

    total = sum_t exp(-s_t) L_t + s_t / 2,      d total / d s_t = 1/2 - exp(-s_t) L_t

    For a constant loss the best s_t is log(2 L_t), where every task contributes 1/2. For regression, the paper halves the first
    term, which only shifts s_t by log 2. Without this, s_t = 0 starts every task at its fixed weight. The paper learns s_t with the
    network's optimizer; here a separate Adam learns it at a constant rate. The returned total does not include s_t / 2.

    Args:
        name: see [`TaskWeighting`], also for `specs` and `model`.
        learning_rate: learning rate of the log-variances.
    """

    def __init__(self, name: str, specs: Mapping[str, TaskSpec], model: nn.Module, *, learning_rate: float = 0.01) -> None:
        super().__init__(name, specs, model)
        self._log_variances = _LogFactors(list(specs), learning_rate)

    @property
    def weights(self) -> dict[str, float]:
        """f_t exp(-s_t)."""
        return {task: weight * math.exp(-self._log_variances.values[task].item()) for task, weight in self.fixed.items()}

    def _learn(self, sums: Mapping[str, list[float]]) -> None:
        variances = self._log_variances.values
        self._log_variances.step({task: 0.5 - math.exp(-variances[task].item()) * loss / count for task, (loss, count) in sums.items()})

    def _state(self) -> dict[str, Any]:
        return {"log_variances": self._log_variances.state_dict()}

    def _load(self, state: dict[str, Any]) -> None:
        self._log_variances.load_state_dict(state["log_variances"])


class DynamicWeightAveraging(_ObservingWeighting):
    """Dynamic weight average of MTAN (https://arxiv.org/abs/1803.10704): tasks whose loss falls slowly get larger weights.

    factor_t = K softmax_t(r_t / temperature),      r_t = mean L_t of the last period / mean L_t of the period before

    for K tasks. Until a task has completed two periods, r_t is 1, as in the paper's first two epochs. Periods in which no pixel of
    the task was known do not count. The paper's period is an epoch.

    Args:
        name: see [`TaskWeighting`], also for `specs` and `model`.
        period: optimizer steps over which losses are averaged; choose enough to cover most of the data.
        temperature: larger values give more equal weights; 2 in the paper.

    Raises:
        ValueError: if `period` or `temperature` is not positive.
    """

    def __init__(self, name: str, specs: Mapping[str, TaskSpec], model: nn.Module, *, period: int = 100, temperature: float = 2.0) -> None:
        super().__init__(name, specs, model)
        if period < 1 or not temperature > 0:
            raise ValueError(f"dwa has period {period} and temperature {temperature}; give a period of at least 1, a temperature above 0")
        self.period = period
        self.temperature = temperature
        self._steps = 0  # steps in the current period
        self._losses: dict[str, list[float]] = {task: [] for task in specs}  # one per step of the current period
        self._averages: dict[str, list[float]] = {task: [] for task in specs}  # means of the last two periods, older first

    @property
    def weights(self) -> dict[str, float]:
        """f_t times the factor."""
        ratios = [averages[1] / averages[0] if len(averages) == 2 else 1.0 for averages in self._averages.values()]
        shares = torch.softmax(torch.tensor(ratios, dtype=torch.float64) / self.temperature, dim=0)
        factors = (len(self.fixed) * shares).tolist()
        return {task: weight * factor for (task, weight), factor in zip(self.fixed.items(), factors)}

    def _learn(self, sums: Mapping[str, list[float]]) -> None:
        for task, (loss, count) in sums.items():
            self._losses[task].append(loss / count)
        self._steps += 1
        if self._steps < self.period:
            return
        for task, losses in self._losses.items():
            if losses:
                self._averages[task] = [*self._averages[task], sum(losses) / len(losses)][-2:]
        self._steps, self._losses = 0, {task: [] for task in self.fixed}

    def _state(self) -> dict[str, Any]:
        return {"steps": self._steps, "losses": self._losses, "averages": self._averages}

    def _load(self, state: dict[str, Any]) -> None:
        self._steps, self._losses, self._averages = state["steps"], state["losses"], state["averages"]


class GradNormWeighting(_ObservingWeighting):
    """GradNorm (https://arxiv.org/abs/1711.02257, algorithm 1): factors w_t such that all tasks train at similar rates.

    G_t = w_t ||dL_t / d features||,   r_t = (L_t / L_t at first) / mean of these over the tasks,
    minimise over w: sum_t |G_t - mean(G) r_t^alpha|, the second term held constant; then rescale so that sum_t w_t stays.

    There are two differences. The paper takes gradients with respect to the weights of the last shared layer. Here all tasks use all
    of the encoder's feature maps, so gradients are taken with respect to these, which costs one more pass through the decoders. And
    log w_t is learnt instead of w_t, so that a step changes a weight by a fraction of itself and no weight becomes negative.

    Args:
        name: see [`TaskWeighting`], also for `specs` and `model`.
        alpha: strength of the push for slow tasks; 0 makes all gradients equal. The paper uses 1.5 for NYUv2, 0.12 for its toy task.
        learning_rate: learning rate of log w_t with Adam.
    """

    reads_features = True

    def __init__(
        self, name: str, specs: Mapping[str, TaskSpec], model: nn.Module, *, alpha: float = 1.5, learning_rate: float = 0.025
    ) -> None:
        super().__init__(name, specs, model)
        self.alpha = alpha
        self._log_factors = _LogFactors(list(specs), learning_rate)
        self._first_losses: dict[str, float] = {}

    @property
    def weights(self) -> dict[str, float]:
        """f_t w_t."""
        return {task: weight * math.exp(self._log_factors.values[task].item()) for task, weight in self.fixed.items()}

    def _statistics(
        self, losses: Mapping[str, Tensor], features: Sequence[Tensor], accelerator: Accelerator, shares: Mapping[str, Tensor]
    ) -> Tensor:
        """As in the base class, and the squared norm of the gradient of share times L_t."""
        refuse_engines(self.name, accelerator)
        edges = _edges(features)
        statistics = super()._statistics(losses, features, accelerator, shares)
        squares = torch.zeros_like(statistics[0])
        for row, task in enumerate(self.fixed):
            if task in losses:
                squares[row] = (self.fixed[task] * shares.get(task, 1.0)) ** 2 * _squared_gradient(task, losses[task], edges)
        values, known = statistics
        known = known * squares.isfinite()
        return torch.stack([values.where(known > 0, 0), known, squares.where(known > 0, 0)])

    def _learn(self, sums: Mapping[str, list[float]]) -> None:
        factors = {task: math.exp(value.item()) for task, value in self._log_factors.values.items()}
        rates, norms = {}, {}
        for task, (loss, count, square) in sums.items():
            rates[task] = loss / count / self._first_losses.setdefault(task, loss / count)
            norms[task] = factors[task] * math.sqrt(square) / count  # norm for the mean over all losses in which the task is known
        if len(norms) < 2:
            return  # a single task cannot be balanced
        mean_rate, mean_norm = sum(rates.values()) / len(rates), sum(norms.values()) / len(norms)
        excess = {task: norm - mean_norm * (rates[task] / mean_rate) ** self.alpha for task, norm in norms.items()}
        # d |G - target| / d log w = sign(G - target) G
        self._log_factors.step({task: math.copysign(norms[task], excess[task]) if excess[task] else 0.0 for task in norms})
        self._rescale(norms, sum(factors[task] for task in norms))

    @torch.no_grad()
    def _rescale(self, tasks: Mapping[str, float], total: float) -> None:
        """Rescale the factors of these tasks to add up to `total`."""
        values = self._log_factors.values
        shift = math.log(total / sum(math.exp(values[task].item()) for task in tasks))
        for task in tasks:
            values[task] += shift

    def _state(self) -> dict[str, Any]:
        return {"log_factors": self._log_factors.state_dict(), "first_losses": self._first_losses}

    def _load(self, state: dict[str, Any]) -> None:
        self._log_factors.load_state_dict(state["log_factors"])
        self._first_losses = state["first_losses"]


def _edges(features: Sequence[Tensor]) -> list[GradientEdge]:
    """Nodes of the features in the graph.

    In mixed precision, Accelerate returns float32 copies of a model's outputs; the losses are computed from the originals, one node
    earlier.
    """
    edges = [get_gradient_edge(maps) for maps in features if maps.requires_grad]
    if not edges:
        raise ValueError(
            f"gradnorm got {len(features)} feature maps, none of which needs a gradient; call the model with output_hidden_states=True, "
            "and do not freeze the encoder"
        )
    return [GradientEdge(*cast(Any, edge.node.next_functions[0])) if edge.node.name().startswith("ToCopy") else edge for edge in edges]


def _squared_gradient(task: str, loss: Tensor, edges: Sequence[GradientEdge]) -> Tensor:
    gradients = torch.autograd.grad(loss, edges, retain_graph=True, allow_unused=True)
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    if not squares:
        raise ValueError(
            f"the loss of {task!r} does not depend on the given feature maps; pass outputs.hidden_states of the same forward pass "
            "(DistributedDataParallel with find_unused_parameters=True replaces them: disable it)"
        )
    return torch.stack(squares).sum()
