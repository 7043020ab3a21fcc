"""Boundaries by the BSDS protocol: precision and recall of thinned maps whose pixels are matched one to one with the true ones.

Martin, Fowlkes, Malik: Learning to detect natural image boundaries, TPAMI 2004; the figures odsF, oisF and
AP as in Arbelaez et al., TPAMI 2011, and the code that published results come from (https://github.com/pdollar/edges,
`edgesEvalImg.m`, `edgesEvalDir.m`). docs/metrics.md lists the differences.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mult_hf.model.tasks import TaskSpec

from .sums import Sums

if TYPE_CHECKING:  # scipy is needed only for boundary metrics
    from scipy.sparse import csr_array

THRESHOLDS = tuple(step / 100 for step in range(1, 100))
"""A pixel is predicted to be a boundary if its value is at least the threshold."""

TRUTH = 0.5
"""A pixel is a boundary if its target is at least this: boundary maps hold 0 and 1."""


def _removable() -> list[np.ndarray]:
    """For either half of a step and each of 256 neighbourhoods, whether its centre pixel is removed (Guo and Hall, CACM 1989).

    Bit k of a neighbourhood is neighbour x(k + 1), counterclockwise from the east, as in Matlab's `bwmorph`.
    """
    x = [(np.arange(256) >> bit & 1).astype(bool) for bit in range(8)]
    x.append(x[0])
    crossings = sum((~x[i] & (x[i + 1] | x[i + 2])).astype(int) for i in (0, 2, 4, 6))
    pairs = [sum((x[i + shift] | x[i + 1 + shift]).astype(int) for i in (0, 2, 4, 6)) for shift in (0, 1)]
    thick = np.isin(np.minimum(*pairs), (2, 3))
    sides = [(x[1] | x[2] | ~x[7]) & x[0], (x[5] | x[6] | ~x[3]) & x[4]]
    return [(crossings == 1) & thick & ~side for side in sides]


_REMOVABLE = _removable()
INSIDE = 255  # all neighbours are on


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a map to lines of one pixel, as Matlab's `bwmorph(mask, "thin", Inf)` and `skimage.morphology.thin` do.

    Implemented here for speed, because thinning takes most of the metric's time: it visits only pixels at the edge, and is
    several times as fast as scikit-image.

    Args:
        mask: (height, width) boolean.

    Returns:
        `np.ndarray`: (height, width) boolean.
    """
    image = np.pad(mask, 1).astype(np.uint8)  # one more pixel on each side: neighbours beyond the border are off
    flat, row = image.reshape(-1), image.shape[1]
    neighbours = (1, 1 - row, -row, -1 - row, -1, row - 1, row, row + 1)  # counterclockwise from the east
    pixels = np.flatnonzero(flat)
    edge = pixels[_neighbourhoods(flat, pixels, neighbours) != INSIDE]
    seen = flat == 0
    seen[edge] = True
    changed = True
    while changed:
        changed = False
        for removable in _REMOVABLE:
            goes = removable[_neighbourhoods(flat, edge, neighbours)]
            gone, edge = edge[goes], edge[~goes]
            flat[gone] = 0
            laid_bare = (gone[:, None] + neighbours).ravel()
            laid_bare = np.unique(laid_bare[~seen[laid_bare]])
            seen[laid_bare] = True
            edge = np.concatenate([edge, laid_bare])
            changed |= len(gone) > 0
    return image[1:-1, 1:-1].astype(bool)


def _neighbourhoods(flat: np.ndarray, pixels: np.ndarray, neighbours: tuple[int, ...]) -> np.ndarray:
    """Which neighbours of each pixel are on, as the bits of a number."""
    return sum(flat[pixels + step] << bit for bit, step in enumerate(neighbours))


@dataclass(frozen=True)
class BoundaryCounts(Sums):
    """Pixels that are matched, predicted and true, each (100,): at each of [`THRESHOLDS`], then at each image's own best threshold.

    Args:
        matched: predicted pixels with a true one of their own nearby.
        predicted: pixels of the thinned prediction.
        true: pixels of the truth.
    """

    matched: Tensor
    predicted: Tensor
    true: Tensor

    @property
    def at_thresholds(self) -> "BoundaryCounts":
        """Each (99,): one threshold for all images."""
        return self[:-1]

    @property
    def at_own_thresholds(self) -> "BoundaryCounts":
        """Each (1,): every image at its own best threshold."""
        return self[-1:]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was true and nothing predicted: there is nothing to find and nothing to miss."""
        return not (self.predicted.any() or self.true.any())

    def precision(self) -> np.ndarray:
        """Share of predicted pixels that are matched; 0 where nothing was predicted."""
        return (self.matched / self.predicted.clamp(min=1)).numpy()

    def recall(self) -> np.ndarray:
        """Share of true pixels that are matched; 0 where nothing is true."""
        return (self.matched / self.true.clamp(min=1)).numpy()


def boundary_counts(prediction: Tensor, target: Tensor, spec: TaskSpec, *, max_dist: float) -> BoundaryCounts:
    """Match one image's boundaries at each of [`THRESHOLDS`], and at the one of them with the best F (the first of equals).

    Args:
        prediction: (1, height, width) strength of the boundary in [0, 1].
        target: (1, height, width), 1 on boundaries, 0 elsewhere, NaN unknown. Predictions at unknown pixels are ignored.
        spec: the task's entry.
        max_dist: farthest distance of a match, as a share of the image diagonal.

    Raises:
        ValueError: if the maps have several channels.
        ImportError: if scipy is missing.
    """
    if len(target) != 1:
        raise ValueError(f"{spec.name}: boundaries need maps of one channel, got {len(target)}; score each channel as a task of its own")
    known = torch.isfinite(target[0])
    strength = torch.where(known, prediction[0], 0).float().cpu().numpy()
    truth = (known & (target[0] >= TRUTH)).cpu().numpy()
    reach = _reach(truth, max_dist)
    matched, predicted = [], []
    last = None
    for threshold in THRESHOLDS:
        mask = strength >= threshold
        if last is not None and np.array_equal(mask, last):  # hard maps are the same at many thresholds
            matched.append(matched[-1])
            predicted.append(predicted[-1])
            continue
        pixels, last = np.flatnonzero(thin(mask)), mask
        matched.append(_matched(reach[pixels]))
        predicted.append(len(pixels))
    at_thresholds = BoundaryCounts(*(torch.tensor(counts).double() for counts in (matched, predicted, [truth.sum()] * len(THRESHOLDS))))
    best = _f_measure(at_thresholds.precision(), at_thresholds.recall()).argmax()
    return at_thresholds.map(lambda counts: torch.cat([counts, counts[best : best + 1]]))


def _reach(truth: np.ndarray, max_dist: float) -> "csr_array":
    """Sparse (pixels of the image, true pixels): which may be matched because they are near enough."""
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise ImportError(f'boundary metrics need scipy ({error}); install it with: pip install "mult-hf[data]"') from error
    height, width = truth.shape
    radius = max_dist * np.hypot(height, width)
    steps = np.arange(-int(radius), int(radius) + 1)
    near = np.argwhere(np.hypot(*np.meshgrid(steps, steps, indexing="ij")) <= radius) - int(radius)  # (neighbours, 2)
    pixels = np.argwhere(truth)[:, None] + near  # (true pixels, neighbours, 2)
    inside = ((pixels >= 0) & (pixels < (height, width))).all(axis=-1)
    rows, columns = np.ravel_multi_index(tuple(pixels[inside].T), truth.shape), np.nonzero(inside)[0]
    return csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(truth.size, truth.sum()))


def _matched(graph: "csr_array") -> int:
    """Size of the largest one-to-one matching (Hopcroft and Karp).

    The benchmark minimises distance plus 100 times the farthest distance for each pixel left over. Only the number of matches
    enters the metrics, and at that penalty a minimum has as many matches as possible (see docs/metrics.md).
    """
    from scipy.sparse.csgraph import maximum_bipartite_matching

    return np.count_nonzero(maximum_bipartite_matching(graph) >= 0)


def _f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean of two arrays, 0 where both are 0."""
    return 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)


def ods_f(sums: BoundaryCounts) -> float:
    """Best F over thresholds that are the same for all images; between two thresholds precision and recall are interpolated."""
    share = np.linspace(0, 1, 100)[:, None]  # (steps between two thresholds, 1)
    at_thresholds = sums.at_thresholds
    between = [share * values[1:] + (1 - share) * values[:-1] for values in (at_thresholds.precision(), at_thresholds.recall())]
    return float("nan") if sums.is_empty else float(_f_measure(*between).max())


def ois_f(sums: BoundaryCounts) -> float:
    """F of all images together, each at its own best threshold."""
    own = sums.at_own_thresholds
    return float("nan") if sums.is_empty else float(_f_measure(own.precision(), own.recall())[0])


def average_precision(sums: BoundaryCounts) -> float:
    """Mean precision at the recalls 0, 0.01, ... 1, interpolated on the curve of all thresholds that predict anything.

    Below the lowest recall of the curve its precision holds on; beyond the highest, precision is 0.
    """
    at_thresholds = sums.at_thresholds
    curve = at_thresholds[at_thresholds.predicted > 0]
    precision, recall = curve.precision(), curve.recall()
    if not len(precision):
        return float("nan") if sums.is_empty else 0.0
    order = np.lexsort((precision, recall))
    precision, recall = precision[order], recall[order]
    best = np.append(np.diff(recall) > 0, True)  # the highest precision of each recall
    return float(np.interp(np.linspace(0, 1, 101), recall[best], precision[best], right=0).mean())
