"""What decides the content of a Rooms data set, and which room is in which split."""

from dataclasses import dataclass

from .variants import LLVM, SCALAR
from .varied.groups import GROUPS, check_groups

SMALLEST_SIZE = 32

PLAIN, VARIED = 1, 2
"""Versions of the scenes."""


@dataclass(frozen=True)
class RoomsSettings:
    """Everything that the rows depend on: two runs with equal settings give equal bytes.

    Args:
        rooms: in all splits together.
        validation_rooms: of them.
        test_rooms: of them.
        views: of each room.
        size: height and width of the pictures in pixels, at least 32.
        samples_per_pixel: light paths a pixel before denoising.
        seed: of the first room; the others follow by one.
        rooms_per_shard: rooms in one file; what an interruption loses is at most one file's.
        scenes: version of the scenes: 1, clean rooms seen from eye height, or 2, varied ones.
        without: groups of `varied.groups.GROUPS` that do not vary; empty for version 1.
        variant: of Mitsuba, `"llvm_ad_rgb"` or `"scalar_rgb"`; their pictures differ slightly.

    Raises:
        ValueError: on a number out of its range.
    """

    rooms: int
    validation_rooms: int
    test_rooms: int
    views: int
    size: int
    samples_per_pixel: int
    seed: int
    rooms_per_shard: int
    scenes: int
    without: tuple[str, ...]
    variant: str

    def __post_init__(self) -> None:
        for name in ("rooms", "views", "samples_per_pixel", "rooms_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("validation_rooms", "test_rooms", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.size < SMALLEST_SIZE:
            raise ValueError(f"size is {self.size}; pictures have at least {SMALLEST_SIZE} pixels a side")
        if self.validation_rooms + self.test_rooms > self.rooms:
            raise ValueError(
                f"{self.validation_rooms} validation and {self.test_rooms} test rooms are more than the {self.rooms} rooms in all; "
                "ask for more rooms"
            )
        if self.seed + self.rooms > 2**31:
            raise ValueError(f"seed {self.seed} with {self.rooms} rooms passes {2**31}, the end of the column's 32-bit numbers")
        if self.scenes not in (PLAIN, VARIED):
            raise ValueError(f"scenes is {self.scenes}; choose {PLAIN} (clean rooms) or {VARIED} (varied rooms)")
        if self.without and self.scenes == PLAIN:
            raise ValueError(f"without is {' '.join(self.without)}; only scenes {VARIED} have groups, leave it out for scenes {PLAIN}")
        object.__setattr__(self, "without", check_groups(self.without))
        if self.variant not in (LLVM, SCALAR):
            raise ValueError(f"variant is {self.variant!r}; choose {LLVM} or {SCALAR}")

    @property
    def groups(self) -> tuple[str, ...]:
        """What varies: none of `GROUPS` in the plain scenes, else all but those of `without`."""
        return () if self.scenes == PLAIN else tuple(name for name in GROUPS if name not in self.without)

    @property
    def split_seeds(self) -> dict[str, range]:
        """Seeds of the rooms of each split that has any. Test comes first, so that more rooms later means more training rooms."""
        first_validation = self.seed + self.test_rooms
        first_training = first_validation + self.validation_rooms
        splits = {
            "train": range(first_training, self.seed + self.rooms),
            "validation": range(first_validation, first_training),
            "test": range(self.seed, first_validation),
        }
        return {split: seeds for split, seeds in splits.items() if seeds}
