"""Named sums from which metrics are computed, added over images and processes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

AnySums = TypeVar("AnySums", bound="Sums")


@dataclass(frozen=True)
class Sums:
    """Base class of the statistics: each field is a float64 tensor that can be added to the same field of another image.

    Examples:
        >>> from dataclasses import dataclass
        >>> from torch import Tensor, tensor
        >>> @dataclass(frozen=True)
        ... class Words(Sums):
        ...     count: Tensor
        ...     letters: Tensor
        >>> Words(tensor(1.0), tensor(5.0)) + Words(tensor(2.0), tensor(7.0))
        Words(count=tensor(3.), letters=tensor(12.))
    """

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls: type[AnySums], tensors: Mapping[str, Tensor]) -> AnySums:
        """Those of these fields; the inverse of [`tensors`]."""
        make: Callable[..., AnySums] = cls
        return make(**tensors)

    def map(self: AnySums, function: Callable[..., Tensor], *others: AnySums) -> AnySums:
        """Apply a function to each field, together with the same field of other objects of this class."""
        return self.of({name: function(value, *(getattr(other, name) for other in others)) for name, value in self.tensors().items()})

    def __add__(self: AnySums, other: AnySums) -> AnySums:
        return self.map(torch.add, other)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was counted: a sum of NaN counts as something."""
        return not any(bool(value.any()) for value in self.tensors().values())

    def __getitem__(self: AnySums, index: Any) -> AnySums:
        return self.map(lambda values: values[index])

    @classmethod
    def stack(cls: type[AnySums], parts: Sequence[AnySums]) -> AnySums:
        """Stack the sums of several images along a new first axis: (images, ...) in each field."""
        return parts[0].map(lambda *values: torch.stack(values), *parts[1:])

    def __reduce__(self) -> tuple[Callable[..., "Sums"], tuple[Any, ...]]:
        # Pickling many tensors takes a hundred times as long as arrays, and processes exchange those of every image.
        return _restore, (type(self), {name: value.numpy() for name, value in self.tensors().items()})


def _restore(kind: type[AnySums], values: dict[str, np.ndarray]) -> AnySums:
    # torch.tensor copies, because an array from a pickle may be read-only; asarray, because numpy unpickles a 0-d array as a number.
    return kind.of({name: torch.tensor(np.asarray(value)) for name, value in values.items()})


@dataclass(frozen=True)
class CountedSums(Sums):
    """Sums over known numbers or pixels, whose means are of interest.

    Args:
        count: of the numbers or pixels.
    """

    count: Tensor
