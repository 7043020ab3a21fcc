"""Groups of randomised properties of varied rooms; each has its own random stream and can be switched off."""

from collections.abc import Collection

import numpy as np

GROUPS: dict[str, str] = {
    "light": "windows with sky, city or night, sun patches, several lamps and panels of varied colour; exposure and white balance",
    "materials": "stone, tiles, carpets, metal, lacquer, patterned cloth, stains and wear",
    "clutter": "small objects on floors, tables, worktops and shelves, stacked and tilted",
    "cameras": "standing, seated, ceiling-near and close-up cameras with pitch, roll and fields of view of 35 to 95 degrees",
    "sensor": "lens and motion blur, vignetting, noise, sharpening, contrast and colour response, JPEG",
}
"""Each group and what it varies. Without a group, that aspect is as in the first version of the scenes."""

SCENES_VERSION = 2
"""Part of every seed, so that no stream equals one of the first version."""

_STREAMS = ("shape", *GROUPS, "paths", "shell")


def stream(seed: int, name: str, view: int = -1) -> np.random.Generator:
    """The random numbers of one aspect of a room or view; switching a group off leaves the others' numbers as they are.

    Args:
        seed: of the room.
        name: `"shape"` (size, kind and furniture), `"shell"` (walls), one of `GROUPS`, or `"paths"` (light paths).
        view: number of the view; -1 for properties of the room.
    """
    return np.random.default_rng([SCENES_VERSION, seed, _STREAMS.index(name), view + 1])


def check_groups(names: Collection[str]) -> tuple[str, ...]:
    """The groups in the order of `GROUPS`, each once.

    Args:
        names: names of groups.

    Raises:
        ValueError: if a name is unknown.
    """
    unknown = sorted(set(names) - set(GROUPS))
    if unknown:
        raise ValueError(f"unknown group {unknown[0]!r}; choose from {', '.join(GROUPS)}")
    return tuple(name for name in GROUPS if name in names)
