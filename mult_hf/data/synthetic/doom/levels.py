"""Freedoom's levels: their names, splits, and geometry, read from the files in the vizdoom wheel."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mult_hf.model.entry_fields import refusal

from .raycasting import CLASS_IDS, NO_SECTOR, LevelGeometry

try:
    import omg
    import vizdoom
    from omg.mapedit import MapEditor
except ImportError as error:
    raise ImportError(
        f'mult_hf.data.synthetic.doom needs vizdoom and omgifol ({error}); install them with: pip install "mult-hf[doom]"'
    ) from error

LEVELS: tuple[str, ...] = (
    *(f"E{episode}M{number}" for episode in range(1, 5) for number in range(1, 10)),
    *(f"MAP{number:02d}" for number in range(1, 33)),
)
"""All levels: Freedoom Phase 1 (E1M1 to E4M9) and Phase 2 (MAP01 to MAP32)."""

SPLITS = ("train", "validation", "test")

# Line types of the original game that open or close a door: by hand, by a switch, by walking or by shooting; with keys.
# https://doomwiki.org/wiki/Linedef_type
DOOR_ACTIONS = (
    1,
    2,
    3,
    4,
    16,
    26,
    27,
    28,
    29,
    31,
    32,
    33,
    34,
    42,
    46,
    50,
    61,
    63,
    75,
    76,
    86,
    90,
    99,
    103,
    *range(105, 119),
    *range(133, 138),
)
LIQUID_FLOORS = ("NUKAGE", "FWATER", "SWATER", "LAVA", "BLOOD", "SLIME0")
SKY_FLAT = "F_SKY"
SWITCH_TEXTURE = "SW"
NO_SIDE = 65535


def split_of(level: str) -> str:
    """Split of a level, independent of the other levels: CocoDoom's map split, (number - 1) mod 4 = {0, 1} / 2 / 3.

    Levels of the four episodes are numbered consecutively. 34 levels are for training, 17 for validation, 17 for testing.

    Args:
        level: a name in `LEVELS`.

    Returns:
        `str`: a name in `SPLITS`.
    """
    number = LEVELS.index(level) if level.startswith("E") else int(level[3:]) - 1
    return ("train", "train", "validation", "test")[number % 4]


def select_levels(names: list[str]) -> tuple[str, ...]:
    """Convert names of levels and splits to levels, in the order of `LEVELS`.

    Args:
        names: levels ("MAP05", "E1M2"), splits ("test") or "all", in upper or lower case.

    Raises:
        ValueError: if a name is unknown, or there is no name.
    """
    chosen = set()
    for name in names:
        matching = [level for level in LEVELS if name.lower() in ("all", split_of(level), level.lower())]
        if not matching:
            raise ValueError(f"there is no level or split {name!r}; allowed: all, {', '.join(SPLITS)}, E1M1 to E4M9, MAP01 to MAP32")
        chosen.update(matching)
    if not chosen:
        raise refusal(f"no level is chosen: names is {names}; give levels such as MAP05 or E1M2, a split, or all")
    return tuple(level for level in LEVELS if level in chosen)


def wad_path(level: str) -> Path:
    """File in the vizdoom wheel that contains the level."""
    return Path(vizdoom.__file__).parent / ("freedoom1.wad" if level.startswith("E") else "freedoom2.wad")


def freedoom_version() -> str:
    """Version of the Freedoom files in the wheel, for example `"0.13.0"`."""
    return _open_wad(wad_path("MAP01")).data["FREEDOOM"].data.decode("ascii").strip()


def read_level(level: str) -> tuple[LevelGeometry, np.ndarray]:
    """Read a level.

    Args:
        level: a name in `LEVELS`.

    Returns:
        `tuple`: the geometry with the heights at the level's start, and the (things, 2) positions x, y of its things
            (monsters, items, decorations, starts) in map units; a player can reach these places.
    """
    editor = MapEditor(_open_wad(wad_path(level)).maps[level])
    vertices = np.array([(vertex.x, vertex.y) for vertex in editor.vertexes], float)
    lines, sectors = editor.linedefs, editor.sectors
    back = np.array([_sector_of_side(editor, line.back) for line in lines])
    geometry = LevelGeometry(
        starts=vertices[[line.vx_a for line in lines]],
        ends=vertices[[line.vx_b for line in lines]],
        front=np.array([_sector_of_side(editor, line.front) for line in lines]),
        back=back,
        floors=np.array([sector.z_floor for sector in sectors], float),
        ceilings=np.array([sector.z_ceil for sector in sectors], float),
        line_classes=np.array([CLASS_IDS["switch" if _has_switch(editor, line) else "wall"] for line in lines]),
        floor_classes=np.array([_flat_class(sector.tx_floor, "floor") for sector in sectors]),
        ceiling_classes=np.array([_flat_class(sector.tx_ceil, "ceiling") for sector in sectors]),
        door_sectors=_door_sectors(editor, back),
    )
    return _without_points(geometry), np.array([(thing.x, thing.y) for thing in editor.things], float)


@lru_cache(maxsize=2)
def _open_wad(path: Path) -> "omg.WAD":
    return omg.WAD(str(path))


def _sector_of_side(editor: MapEditor, side: int) -> int:
    return NO_SECTOR if side == NO_SIDE else editor.sidedefs[side].sector


def _has_switch(editor: MapEditor, line: Any) -> bool:
    """Whether one of the textures on either side of the line shows a switch."""
    sides = [editor.sidedefs[side] for side in (line.front, line.back) if side != NO_SIDE]
    names = [name for side in sides for name in (side.tx_up, side.tx_mid, side.tx_low)]
    return any(name.upper().startswith(SWITCH_TEXTURE) for name in names)


def _flat_class(texture: str, otherwise: str) -> int:
    """Class id of a floor or ceiling with a given texture."""
    texture = texture.upper()
    if texture.startswith(SKY_FLAT):
        return CLASS_IDS["sky"]
    return CLASS_IDS["liquid" if otherwise == "floor" and texture.startswith(LIQUID_FLOORS) else otherwise]


def _door_sectors(editor: MapEditor, back: np.ndarray) -> np.ndarray:
    """(sectors,) whether a door line moves the sector: the sector behind the line, or those with the line's tag."""
    doors = np.zeros(len(editor.sectors), bool)
    tags = np.array([sector.tag for sector in editor.sectors])
    for line, behind in zip(editor.linedefs, back):
        if line.action in DOOR_ACTIONS and line.tag:
            doors |= tags == line.tag
        elif line.action in DOOR_ACTIONS and behind != NO_SECTOR:
            doors[behind] = True
    return doors


def _without_points(geometry: LevelGeometry) -> LevelGeometry:
    """Drop lines of length zero, which have no direction."""
    keep = (geometry.starts != geometry.ends).any(axis=1)
    by_line = ("starts", "ends", "front", "back", "line_classes")
    return LevelGeometry(**{name: values[keep] if name in by_line else values for name, values in vars(geometry).items()})
