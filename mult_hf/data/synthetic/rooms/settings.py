"""Settings that determine the content of a Rooms data set and its splits."""

from dataclasses import dataclass

from .variants import RENDERING
from .varied.groups import GROUPS, check_groups

SMALLEST_SIZE = 32

PLAIN, VARIED = 1, 2
"""Versions of the scenes."""


@dataclass(frozen=True)
class RoomsSettings:
    """All settings that the rows depend on: two runs with equal settings give equal bytes.

    Args:
        rooms: number of rooms in all splits together.
        validation_rooms: how many of them are for validation.
        test_rooms: how many of them are for testing.
        views: number of views per room.
        size: height and width of the images in pixels, at least 32.
        samples_per_pixel: light paths per pixel before denoising.
        seed: seed of the first room; the following rooms have consecutive seeds.
        rooms_per_shard: rooms per file; an interruption loses at most one file's rooms.
        scenes: version of the scenes: 1, clean rooms seen from eye height, or 2, varied ones.
        without: groups of `varied.groups.GROUPS` that do not vary; empty for version 1.
        variant: Mitsuba's variant, one of `variants.RENDERING`; their images differ slightly.

    Raises:
        ValueError: if a number is out of range.
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
            raise ValueError(f"size is {self.size}; it must be at least {SMALLEST_SIZE} pixels")
        if self.validation_rooms + self.test_rooms > self.rooms:
            raise ValueError(
                f"{self.validation_rooms} validation and {self.test_rooms} test rooms are more than the {self.rooms} rooms in all; "
                "ask for more rooms"
            )
        if self.seed + self.rooms > 2**31:
            raise ValueError(f"seed {self.seed} with {self.rooms} rooms exceeds {2**31}, the limit of the 32-bit column; lower the seed")
        if self.scenes not in (PLAIN, VARIED):
            raise ValueError(f"scenes is {self.scenes}; choose {PLAIN} (clean rooms) or {VARIED} (varied rooms)")
        if self.without and self.scenes == PLAIN:
            raise ValueError(f"without is {' '.join(self.without)}; only scenes {VARIED} have groups, leave it out for scenes {PLAIN}")
        object.__setattr__(self, "without", check_groups(self.without))
        if self.variant not in RENDERING:
            raise ValueError(f"variant is {self.variant!r}; choose one of {', '.join(RENDERING)}")

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups that vary: none of `GROUPS` in the plain scenes, otherwise all except those in `without`."""
        return () if self.scenes == PLAIN else tuple(name for name in GROUPS if name not in self.without)

    @property
    def split_seeds(self) -> dict[str, range]:
        """Seeds of the rooms of each non-empty split. Test comes first, so that additional rooms become training rooms."""
        first_validation = self.seed + self.test_rooms
        first_training = first_validation + self.validation_rooms
        splits = {
            "train": range(first_training, self.seed + self.rooms),
            "validation": range(first_validation, first_training),
            "test": range(self.seed, first_validation),
        }
        return {split: seeds for split, seeds in splits.items() if seeds}
