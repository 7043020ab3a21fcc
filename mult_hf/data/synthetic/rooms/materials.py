"""Surface materials: colour and gloss, and their choice for one room."""

from dataclasses import dataclass

import numpy as np

from . import textures

DISPLAY_GAMMA = 2.2


@dataclass(frozen=True, eq=False)
class Material:
    """One kind of surface; parts that share a `Material` object become one mesh.

    Args:
        albedo: (3,) display colour or (height, width, 3) texture in [0, 1].
        roughness: roughness of the gloss, in (0, 1]; `None` for a fully matt surface.
        specular: strength of the gloss, in [0, 1].
        repeat: size of one repeat of the texture in metres (units of the mesh's `uv`).
    """

    albedo: np.ndarray
    roughness: float | None = None
    specular: float = 0.5
    repeat: float = 1.0

    @property
    def linear_albedo(self) -> np.ndarray:
        """Linear share of reflected light, in the shape of `albedo`."""
        return np.clip(self.albedo, textures.DARKEST, textures.LIGHTEST) ** DISPLAY_GAMMA


def plain(red: float, green: float, blue: float, roughness: float | None = None) -> Material:
    """A material of one display colour."""
    return Material(np.array([red, green, blue], float), roughness)


def grey(value: float, roughness: float | None = None) -> Material:
    """A material without a hue."""
    return plain(value, value, value, roughness)


def room_colour(
    rng: np.random.Generator, saturation: tuple[float, float] = (0.1, 0.6), value: tuple[float, float] = (0.25, 0.85)
) -> np.ndarray:
    """(3,) display colour typical of rooms: mostly warm and muted, sometimes blue, rarely another hue."""
    kind = rng.random()
    hue = rng.normal(0.09, 0.05) if kind < 0.5 else rng.normal(0.58, 0.06) if kind < 0.7 else rng.random()
    muted = 1.0 if rng.random() < 0.6 else 0.35
    return textures.colour_of(hue, muted * rng.uniform(*saturation), rng.uniform(*value))


class Palette:
    """Materials shared by the furniture of one room, so that it looks consistent.

    Args:
        rng: random number generator for the choices.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.wood = self._new_wood()
        self.second_wood = self._new_wood() if rng.random() < 0.6 else grey(rng.uniform(0.05, 0.95), 0.4)
        self.white = grey(0.86, 0.4)
        self.dark = grey(0.05, 0.3)
        self.metal = plain(0.75, 0.7, 0.55, 0.25)
        self.screen = grey(0.02, 0.15)
        self.fabric = self.new_fabric()
        self.second_fabric = self.new_fabric()
        self.books = [Material(room_colour(rng, (0.2, 0.85), (0.15, 0.8))) for _ in range(12)]
        self.furniture = self.wood if rng.random() < 0.65 else self.white
        self.trim = self.white if rng.random() < 0.7 else self.wood

    def _new_wood(self) -> Material:
        return Material(textures.wood(self._rng), roughness=self._rng.uniform(0.3, 0.6), specular=0.3)

    def new_fabric(self, saturation: tuple[float, float] = (0.05, 0.65), value: tuple[float, float] = (0.2, 0.85)) -> Material:
        """A cloth in a new colour."""
        return Material(textures.fabric(self._rng, room_colour(self._rng, saturation, value)), repeat=0.8)

    def new_glaze(self) -> Material:
        """A glossy ceramic in a new colour."""
        return Material(room_colour(self._rng, (0.2, 0.8)), roughness=0.2)

    def new_floor(self) -> Material:
        """Boards, tiles or carpet."""
        kind = self._rng.random()
        if kind < 0.6:
            return Material(textures.wood(self._rng, 512, planks=6), self._rng.uniform(0.25, 0.55), 0.3, repeat=1.1)
        if kind < 0.8:
            return Material(textures.tiles(self._rng), self._rng.uniform(0.25, 0.55), 0.3, repeat=self._rng.uniform(1.0, 2.4))
        return Material(textures.fabric(self._rng, room_colour(self._rng, (0.03, 0.3), (0.35, 0.75)), 256), repeat=0.5)

    def new_rug(self) -> Material:
        """A rug that is patterned, plain or shows an image; the texture is stretched over it once."""
        kind = self._rng.integers(3)
        if kind == 0:
            return Material(0.85 * textures.wallpaper(self._rng))
        if kind == 1:
            return Material(0.85 * textures.fabric(self._rng, room_colour(self._rng, (0.2, 0.8), (0.2, 0.8))))
        return Material(0.85 * textures.art(self._rng))

    def new_walls(self) -> list[Material]:
        """One material per wall: all painted alike, all papered, or one accent wall."""
        rng = self._rng
        paint = Material(textures.plaster(rng, room_colour(rng, (0.0, 0.3), (0.62, 0.93))), repeat=2.0)
        kind = rng.random()
        if kind < 0.3:
            return [Material(textures.wallpaper(rng), repeat=1.3)] * 4
        walls = [paint] * 4
        if kind < 0.7:
            accents = (textures.brick, textures.wallpaper, lambda rng: textures.plaster(rng, room_colour(rng, (0.3, 0.6), (0.3, 0.7))))
            walls[rng.integers(4)] = Material(accents[rng.integers(3)](rng), repeat=1.3)
        return walls
