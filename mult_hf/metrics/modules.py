"""The metrics as modules of the `evaluate` library, by family: `evaluate.load(script("mult_depth"))`, or directly `MultDepth()`.

`evaluate.load` takes the path of a script; [`script`] returns those of the five modules. A script only imports this file, so a
copy in `evaluate`'s cache is never stale. Importing this file writes no files.

`evaluate` writes its inputs to an Arrow file. Here these are one row of sums per process, not the maps.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

try:
    import evaluate
    from datasets import Features, Value
except ImportError as error:
    raise ImportError(f'mult_hf.metrics.modules needs evaluate ({error}); install it with: pip install "mult-hf[train]"') from error

import safetensors.torch

from mult_hf.model.tasks import TaskSpec

from .accumulator import MultiTaskMetrics
from .table import BOUNDARY_METRICS, DEPTH_METRICS, MAP_METRICS, NORMALS_METRICS, SEGMENTATION_METRICS

_SCRIPTS = Path(__file__).parent / "evaluate_modules"

_INPUTS = """
Args:
    predictions: maps of several images (tensors or arrays; sizes may differ): (height, width), or (channels, height, width).
    references: maps of the same sizes; NaN, or class 255, where unknown.
Returns:
    One number per name in `metrics`.
"""


class _SumsMetric(evaluate.Metric):
    """Adds the sums of its images; only these are written to the file that processes share.

    Args:
        spec: the entry of the measured task; `compute` returns its `metrics`.
        kwargs: keywords of `evaluate.Metric`, as `evaluate.load` passes them.
    """

    def __init__(self, spec: TaskSpec, **kwargs: Any) -> None:
        self.spec = spec
        self.collected = MultiTaskMetrics({spec.name: spec})
        self.images = 0
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        family = (type(self).__doc__ or "").splitlines()[0]
        return evaluate.MetricInfo(
            description=f"{family} Metrics: {', '.join(self.spec.metrics)}. Only sums and the number of images are stored.",
            citation="",
            inputs_description=_INPUTS,
            features=Features({"predictions": Value("binary"), "references": Value("int64")}),
            reference_urls=["https://arxiv.org/abs/2205.08303"],
        )

    def __len__(self) -> int:
        """Number of images added since the last `compute`."""
        return self.images

    def add(self, *, prediction: Any = None, reference: Any = None, predictions: Any = None, references: Any = None) -> None:
        """Add one image: a prediction and a reference of the same size; `evaluate.combine` uses the plural names.

        Raises:
            ValueError: if a map is not that of a single image; `add_batch` takes several.
        """
        self.add_batch(
            predictions=[predictions if prediction is None else prediction], references=[references if reference is None else reference]
        )

    def add_batch(self, *, predictions: Iterable[Any] = (), references: Iterable[Any] = ()) -> None:
        """Add several images.

        Raises:
            ValueError: if the numbers of predictions and references differ, or a map is not that of a single image; none is added then.
        """
        added, images = MultiTaskMetrics(self.collected.specs), 0
        for prediction, reference in zip(predictions, references, strict=True):
            added.update({self.spec.name: prediction}, {self.spec.name: reference})
            images += 1
        self.collected.merge(added)
        self.images += images

    def compute(self, *, predictions: Iterable[Any] | None = None, references: Iterable[Any] | None = None) -> dict[str, Any] | None:
        """Compute the metrics of all images added so far and of these, then reset.

        With several processes, each must call this once; process 0 gets the numbers, the others None.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=() if predictions is None else predictions, references=() if references is None else references)
        super().add_batch(predictions=[safetensors.torch.save(self.collected.state())], references=[self.images])
        self.collected, self.images = MultiTaskMetrics(self.collected.specs), 0
        return super().compute()

    def _compute(self, predictions: Iterable[bytes], references: Iterable[int]) -> dict[str, Any]:
        collected = MultiTaskMetrics({self.spec.name: self.spec})
        for state in predictions:
            collected.merge_state(safetensors.torch.load(state))
        return self._numbers(collected)

    def _numbers(self, collected: MultiTaskMetrics) -> dict[str, Any]:
        return {name.split("/")[1]: value for name, value in collected.compute().items()}


class MultSegmentation(_SumsMetric):
    """Semantic segmentation: IoU and accuracy, over all classes and `per_class`."""

    def __init__(
        self, num_classes: int, class_names: Sequence[str] = (), metrics: Sequence[str] = tuple(SEGMENTATION_METRICS), **kwargs: Any
    ) -> None:
        spec = TaskSpec(name="classes", kind="classification", channels=num_classes, class_names=tuple(class_names), metrics=tuple(metrics))
        super().__init__(spec, **kwargs)

    def _numbers(self, collected: MultiTaskMetrics) -> dict[str, Any]:
        return {**super()._numbers(collected), "per_class": collected.per_class(self.spec.name)}


class _RegressionMetric(_SumsMetric):
    def __init__(self, channels: int, metrics: Sequence[str], **kwargs: Any) -> None:
        super().__init__(TaskSpec(name="map", kind="regression", channels=channels, metrics=tuple(metrics)), **kwargs)


class MultDepth(_RegressionMetric):
    """Depth: absolute, relative and logarithmic errors."""

    def __init__(self, metrics: Sequence[str] = tuple(DEPTH_METRICS), **kwargs: Any) -> None:
        super().__init__(1, metrics, **kwargs)


class MultNormals(_RegressionMetric):
    """Surface normals: angles in degrees."""

    def __init__(self, metrics: Sequence[str] = tuple(NORMALS_METRICS), **kwargs: Any) -> None:
        super().__init__(3, metrics, **kwargs)


class MultMaps(_RegressionMetric):
    """Heat maps, edges, shading and other numbers: absolute and squared errors.

    Args:
        channels: number of channels of each map.
        metrics: names of the metrics that `compute` returns.
        kwargs: keywords of `evaluate.Metric`.
    """

    def __init__(self, channels: int = 1, metrics: Sequence[str] = tuple(MAP_METRICS), **kwargs: Any) -> None:
        super().__init__(channels, metrics, **kwargs)


class MultBoundaries(_RegressionMetric):
    """Boundaries by the BSDS protocol: F at the best threshold of the data set and of each image, and average precision."""

    def __init__(self, metrics: Sequence[str] = tuple(BOUNDARY_METRICS), **kwargs: Any) -> None:
        super().__init__(1, metrics, **kwargs)


def script(name: str) -> str:
    """Path of a module's script for `evaluate.load`.

    Raises:
        ValueError: if the name is unknown.
    """
    path = _SCRIPTS / f"{name}.py"
    if not path.exists():
        raise ValueError(f"unknown evaluate module {name!r}; allowed: {', '.join(sorted(p.stem for p in _SCRIPTS.glob('*.py')))}")
    return str(path)
