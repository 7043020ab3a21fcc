"""The materials of one varied room."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import textures
from ..materials import Material, Palette, grey, room_colour
from . import prints, surfaces

WEAR = (0.0, 0.0, 0.3, 0.6, 1.0)
"""Range of wear of a room, from new to old."""

POOL = 6
"""Materials of one kind that the small things of a room share."""


@dataclass(frozen=True, eq=False)
class Finish(Material):
    """A material that may be metal.

    Args:
        metallic: 0 for everything else, 1 for bare metal.
    """

    metallic: float = 0.0


def metal(colour: np.ndarray, roughness: float) -> Finish:
    """Bare metal of a display colour (3,) or texture."""
    return Finish(colour, roughness=roughness, specular=0.5, repeat=0.3, metallic=1.0)


class VariedPalette(Palette):
    """The first version's palette, with more kinds of surfaces and with wear.

    Args:
        rng: random number generator for the choices.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._pools: dict[str, list[Material]] = {}
        self._wear = float(rng.choice(WEAR))
        super().__init__(rng)
        self.white = Finish(np.full(3, rng.uniform(0.72, 0.93)) * rng.uniform(0.96, 1, 3), rng.uniform(0.15, 0.6), rng.uniform(0.2, 0.6))
        self.dark = grey(rng.uniform(0.02, 0.12), rng.uniform(0.2, 0.5))
        self.metal = self.new_metal()
        self.furniture = (self.wood, self.white, self._new_lacquer(), self._new_wood())[rng.choice(4, p=(0.3, 0.2, 0.35, 0.15))]
        self.books = [Material(room_colour(rng, (0.0, 0.85), (0.08, 0.9)), rng.choice([0.3, 0.6])) for _ in range(8)]
        self.books += [Material(prints.cover(rng), rng.uniform(0.2, 0.5), 0.3, repeat=rng.uniform(0.18, 0.3)) for _ in range(6)]

    def some(self, kind: str, rng: np.random.Generator) -> Material:
        """One of the few materials of a kind that the small things of a room share; fewer materials load faster.

        Args:
            kind: `"glaze"`, `"plastic"`, `"metal"`, `"steel"`, `"cloth"`, `"page"` or `"keys"`.
            rng: random number generator for the choice.
        """
        makers: dict[str, Callable[[], Material]] = {
            "glaze": self.new_glaze,
            "plastic": self.new_plastic,
            "metal": self.new_metal,
            "steel": self.new_steel,
            "cloth": lambda: self.new_fabric((0.0, 0.7), (0.05, 0.85)),
            "page": lambda: Material(prints.page(self._rng)),
            "keys": lambda: Finish(prints.keyboard(self._rng), 0.5, 0.3),
        }
        pool = self._pools.setdefault(kind, [])
        index = int(rng.integers(POOL))
        if index >= len(pool):
            pool.append(makers[kind]())
        return pool[min(index, len(pool) - 1)]

    def _worn(self, texture: np.ndarray, share: float = 1.0) -> np.ndarray:
        return surfaces.worn(self._rng, texture, share * self._wear) if self._wear else texture

    def _new_wood(self) -> Material:
        gloss = self._rng.choice([self._rng.uniform(0.12, 0.3), self._rng.uniform(0.3, 0.7)])
        return Finish(self._worn(surfaces.laminate(self._rng), 0.6), float(gloss), self._rng.uniform(0.15, 0.6))

    def _new_lacquer(self) -> Material:
        return Finish(room_colour(self._rng, (0.0, 1.0), (0.03, 0.95)), self._rng.uniform(0.08, 0.4), 0.5)

    def new_metal(self) -> Finish:
        """Steel, chrome, brass or black metal."""
        rng = self._rng
        kinds = ((0.62, 0.62, 0.63), (0.8, 0.8, 0.8), (0.75, 0.6, 0.35), (0.12, 0.12, 0.13))
        return metal(np.array(kinds[rng.choice(4, p=(0.45, 0.25, 0.12, 0.18))]) * rng.uniform(0.85, 1.1), rng.uniform(0.12, 0.45))

    def new_steel(self) -> Finish:
        """Brushed sheet metal."""
        return metal(surfaces.brushed(self._rng), self._rng.uniform(0.2, 0.45))

    def new_plastic(self) -> Finish:
        """Plastic, more often grey or black than coloured."""
        rng = self._rng
        colour = (
            np.full(3, rng.choice([0.06, 0.15, 0.5, 0.85]) * rng.uniform(0.8, 1.1)) if rng.random() < 0.6 else room_colour(rng, (0.2, 0.9))
        )
        return Finish(colour, rng.uniform(0.15, 0.6), 0.5)

    def new_worktop(self) -> Material:
        """Stone, laminate, wood or steel."""
        kind = self._rng.random()
        if kind < 0.5:
            return Finish(self._worn(surfaces.stone(self._rng), 0.5), self._rng.uniform(0.06, 0.4), 0.5, repeat=self._rng.uniform(0.5, 1.3))
        return self._new_wood() if kind < 0.9 else self.new_steel()

    def new_fabric(self, saturation: tuple[float, float] = (0.05, 0.65), value: tuple[float, float] = (0.2, 0.85)) -> Material:
        """A cloth or leather of a new colour."""
        rng, colour = self._rng, room_colour(self._rng, saturation, (min(value[0], 0.12), value[1]))
        kind = rng.random()
        if kind < 0.2:
            return Finish(textures.tinted(textures.noise(rng, 128, 12, 4), colour, 0.2), rng.uniform(0.25, 0.5), 0.4, repeat=0.6)
        if kind < 0.5:
            return Material(surfaces.patterned_cloth(rng, colour), repeat=rng.uniform(0.2, 0.9))
        return Material(textures.fabric(rng, colour), repeat=rng.uniform(0.4, 1.0))

    def new_glaze(self) -> Material:
        """A glossy ceramic, or one with a print."""
        if self._rng.random() < 0.3:
            return Finish(prints.cover(self._rng), self._rng.uniform(0.08, 0.3), 0.5, repeat=self._rng.uniform(0.1, 0.3))
        return Finish(room_colour(self._rng, (0.0, 0.8), (0.1, 0.95)), self._rng.uniform(0.06, 0.3), 0.5)

    def new_floor(self) -> Material:
        """Boards, parquet, tiles, stone or carpet, matt to polished."""
        rng, kind = self._rng, self._rng.random()
        if kind < 0.3:
            return Material(self._worn(surfaces.carpet(rng)), repeat=rng.uniform(0.5, 1.2))
        gloss = float(rng.choice([rng.uniform(0.08, 0.25), rng.uniform(0.25, 0.7)]))
        if kind < 0.55:
            return Finish(self._worn(surfaces.planks(rng)), gloss, 0.35, repeat=rng.uniform(0.8, 1.5))
        if kind < 0.65:
            return Finish(self._worn(surfaces.parquet(rng)), gloss, 0.35, repeat=rng.uniform(0.5, 1.1))
        if kind < 0.85:
            return Finish(self._worn(surfaces.tile_grid(rng)), gloss, 0.4, repeat=rng.uniform(0.8, 2.0))
        return Finish(self._worn(surfaces.stone(rng)), gloss, 0.4, repeat=rng.uniform(0.8, 2.0))

    def new_rug(self) -> Material:
        """A patterned rug; its texture is stretched over it once."""
        rng = self._rng
        kinds = (
            lambda: textures.wallpaper(rng),
            lambda: surfaces.patterned_cloth(rng, room_colour(rng, (0.1, 0.8), (0.1, 0.8)), 256),
            lambda: textures.art(rng),
            lambda: surfaces.carpet(rng),
        )
        return Material(self._worn(0.85 * kinds[rng.integers(4)]()))

    def new_splashback(self) -> Material:
        """Tiles, stone or glass-like lacquer behind a worktop."""
        if self._rng.random() < 0.6:
            return Finish(surfaces.tile_grid(self._rng), self._rng.uniform(0.08, 0.4), 0.5, repeat=self._rng.uniform(0.4, 1.0))
        return self.new_worktop() if self._rng.random() < 0.5 else self._new_lacquer()

    def new_walls(self) -> list[Material]:
        """One material per wall: painted, papered or concrete, or one or two accent walls."""
        rng = self._rng

        def paint() -> Material:
            colour = room_colour(rng, (0.0, 0.35), (0.4, 0.95)) if rng.random() < 0.5 else np.full(3, rng.uniform(0.7, 0.95))
            return Finish(self._worn(textures.plaster(rng, colour), 0.5), float(rng.choice([0.5, 0.9])), 0.2, repeat=2.0)

        accents: tuple[Callable[[], Material], ...] = (
            lambda: Material(textures.brick(rng), repeat=1.3),
            lambda: Material(textures.wallpaper(rng), repeat=rng.uniform(0.7, 1.6)),
            lambda: Finish(surfaces.tile_grid(rng), 0.2, 0.4, repeat=rng.uniform(0.5, 1.2)),
            lambda: Material(self._worn(surfaces.stone(rng)), repeat=rng.uniform(1.5, 2.5)),
            lambda: Finish(surfaces.laminate(rng), 0.4, 0.3, repeat=rng.uniform(0.6, 1.2)),
            paint,
        )
        walls = [paint()] * 4
        if rng.random() < 0.2:
            return [accents[rng.integers(2)]()] * 4
        for _ in range(rng.integers(0, 3)):
            walls[rng.integers(4)] = accents[rng.integers(len(accents))]()
        return walls
