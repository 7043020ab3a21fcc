"""Boundary metrics of the BSDS protocol: precision and recall of thinned maps, with pixels matched one to one to the truth.

Martin, Fowlkes, Malik: Learning to detect natural image boundaries, TPAMI 2004; the metrics odsF, oisF and AP as in Arbelaez et
al., TPAMI 2011, and in the code behind published results (https://github.com/pdollar/edges, `edgesEvalImg.m`, `edgesEvalDir.m`).
docs/metrics.md lists the differences.
"""

import operator
from dataclasses import dataclass
from functools import reduce
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
"""A pixel is a boundary if its target is at least this; boundary maps contain 0 and 1."""


def _removable() -> list[np.ndarray]:
    """Whether the centre pixel is removed, for each half-step and each of 256 neighbourhoods (Guo and Hall, CACM 1989).

    Bit k of a neighbourhood is neighbour x(k + 1), counter-clockwise from the east, as in MATLAB's `bwmorph`.
    """
    x = [(np.arange(256) >> bit & 1).astype(bool) for bit in range(8)]
    x.append(x[0])
    crossings = np.sum([~x[i] & (x[i + 1] | x[i + 2]) for i in (0, 2, 4, 6)], axis=0)
    pairs = [np.sum([x[i + shift] | x[i + 1 + shift] for i in (0, 2, 4, 6)], axis=0) for shift in (0, 1)]
    thick = np.isin(np.minimum(*pairs), (2, 3))
    sides = [(x[1] | x[2] | ~x[7]) & x[0], (x[5] | x[6] | ~x[3]) & x[4]]
    return [(crossings == 1) & thick & ~side for side in sides]


_REMOVABLE = _removable()
INSIDE = 255  # all neighbours are on


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a map to lines of one pixel, like MATLAB's `bwmorph(mask, "thin", Inf)` and `skimage.morphology.thin`.

    Thinning takes most of the metric's time. This implementation visits only pixels at the edge and is several times as fast as
    scikit-image's.

    Args:
        mask: (height, width) boolean.

    Returns:
        `np.ndarray`: (height, width) boolean.
    """
    image = np.pad(mask, 1).astype(np.uint8)  # padded by one pixel: neighbours beyond the border are off
    flat, row = image.reshape(-1), image.shape[1]
    neighbours = (1, 1 - row, -row, -1 - row, -1, row - 1, row, row + 1)  # counter-clockwise from the east
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
    """The neighbours of each pixel that are on, as bits of a number."""
    return reduce(operator.or_, (flat[pixels + step] << bit for bit, step in enumerate(neighbours)))


@dataclass(frozen=True)
class BoundaryCounts(Sums):
    """Numbers of matched, predicted and true pixels, each (100,): at each of [`THRESHOLDS`], then at each image's best threshold.

    Args:
        matched: number of predicted pixels that are matched to a true pixel nearby.
        predicted: number of pixels in the thinned prediction.
        true: number of pixels in the truth.
    """

    matched: Tensor
    predicted: Tensor
    true: Tensor

    @property
    def at_thresholds(self) -> "BoundaryCounts":
        """The counts at each threshold, (99,) each, with the same threshold for all images."""
        return self[:-1]

    @property
    def at_own_thresholds(self) -> "BoundaryCounts":
        """The counts with every image at its own best threshold, (1,) each."""
        return self[-1:]

    @property
    def is_empty(self) -> bool:
        """Whether neither truth nor prediction has a boundary pixel."""
        return not (self.predicted.any() or self.true.any())

    def precision(self) -> np.ndarray:
        """Share of predicted pixels that are matched; 0 where nothing was predicted."""
        return (self.matched / self.predicted.clamp(min=1)).numpy()

    def recall(self) -> np.ndarray:
        """Share of true pixels that are matched; 0 where nothing is true."""
        return (self.matched / self.true.clamp(min=1)).numpy()


def boundary_counts(prediction: Tensor, target: Tensor, spec: TaskSpec, *, max_dist: float) -> BoundaryCounts:
    """Match one image's boundaries at each of [`THRESHOLDS`], and at the one with the best F (the first, if several are equal).

    Args:
        prediction: (1, height, width) strength of the boundary in [0, 1].
        target: (1, height, width), 1 on boundaries, 0 elsewhere, NaN unknown. Predictions at unknown pixels are ignored.
        spec: the task's entry.
        max_dist: largest distance of a match, as a share of the image diagonal.

    Raises:
        ValueError: if the maps have several channels.
        ImportError: if scipy is missing.
    """
    if len(target) != 1:
        raise ValueError(f"{spec.name}: boundaries need maps of one channel, got {len(target)}; score each channel as a separate task")
    known = torch.isfinite(target[0])
    strength = torch.where(known, prediction[0], 0).float().cpu().numpy()
    truth = (known & (target[0] >= TRUTH)).cpu().numpy()
    reach = _reach(truth, max_dist)
    matched: list[int] = []
    predicted: list[int] = []
    last: np.ndarray | None = None
    for threshold in THRESHOLDS:
        mask = strength >= threshold
        if last is not None and np.array_equal(mask, last):  # binary maps are equal at many thresholds
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
    """Sparse matrix (pixels of the image, true pixels) of the pairs that are close enough to be matched."""
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
    rows, columns = rows.astype(np.int32), columns.astype(np.int32)  # older releases of scipy accept no other indices
    return csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(truth.size, truth.sum()))


def _matched(graph: "csr_array") -> int:
    """Size of the largest one-to-one matching (Hopcroft and Karp).

    The benchmark minimises the sum of distances plus 100 times the largest distance for each unmatched pixel. Only the number of
    matches affects the metrics, and with this penalty a minimum has as many matches as possible (see docs/metrics.md).
    """
    from scipy.sparse.csgraph import maximum_bipartite_matching

    return int(np.count_nonzero(maximum_bipartite_matching(graph) >= 0))


def _f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean of two arrays, 0 where both are 0."""
    return 2 * precision * recall / np.where(precision + recall > 0, precision + recall, 1)


def ods_f(sums: BoundaryCounts) -> float:
    """Best F over a common threshold for all images; precision and recall are interpolated between thresholds."""
    share = np.linspace(0, 1, 100)[:, None]  # (steps between two thresholds, 1)
    at_thresholds = sums.at_thresholds
    between = [share * values[1:] + (1 - share) * values[:-1] for values in (at_thresholds.precision(), at_thresholds.recall())]
    return float("nan") if sums.is_empty else float(_f_measure(*between).max())


def ois_f(sums: BoundaryCounts) -> float:
    """F over all images, each at its own best threshold."""
    own = sums.at_own_thresholds
    return float("nan") if sums.is_empty else float(_f_measure(own.precision(), own.recall())[0])


def average_precision(sums: BoundaryCounts) -> float:
    """Mean precision at the recalls 0, 0.01, ... 1, interpolated on the curve of all thresholds that predict anything.

    Below the curve's lowest recall, precision is constant; above the highest, it is 0.
    """
    at_thresholds = sums.at_thresholds
    curve = at_thresholds[at_thresholds.predicted > 0]
    precision, recall = curve.precision(), curve.recall()
    if not len(precision):
        return float("nan") if sums.is_empty else 0.0
    order = np.lexsort((precision, recall))
    precision, recall = precision[order], recall[order]
    best = np.append(np.diff(recall) > 0, True)  # the highest precision for each recall
    return float(np.interp(np.linspace(0, 1, 101), recall[best], precision[best], right=0).mean())
