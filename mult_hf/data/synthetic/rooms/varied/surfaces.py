"""Textures of the varied rooms: (height, width, 3) float arrays of display (sRGB) colours in [0, 1].

All of them repeat without a seam unless the docstring says otherwise.
"""

import numpy as np

from ..textures import DARKEST, LIGHTEST, Colour, colour_of, noise, tinted, wood


def _limited(texture: np.ndarray) -> np.ndarray:
    return np.clip(texture, DARKEST, LIGHTEST)


def grains(rng: np.random.Generator, colours: np.ndarray, size: int = 256, coarse: int = 1) -> np.ndarray:
    """Random specks.

    Args:
        rng: random number generator.
        colours: (colours, 3), of the specks.
        size: pixels of a side.
        coarse: pixels of a speck's side; a divisor of `size`.
    """
    choice = rng.integers(0, len(colours), (size // coarse, size // coarse))
    return np.kron(np.asarray(colours)[choice], np.ones((coarse, coarse, 1)))


def stone(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Marble with veins, granite or quartz with specks, or concrete."""
    base = colour_of(rng.normal(0.09, 0.04) % 1, rng.uniform(0, 0.25), rng.choice([rng.uniform(0.08, 0.3), rng.uniform(0.45, 0.92)]))
    cloud = noise(rng, size, 3, 6)
    kind = rng.integers(3)
    if kind == 0:
        vein = np.exp(-(((cloud - 0.5) / rng.uniform(0.006, 0.02)) ** 2))[..., None]
        other = base * 0.5 if base.mean() > 0.4 else np.minimum(base + 0.5, 0.9)
        return _limited(tinted(noise(rng, size, 5, 5), base, 0.1) * (1 - 0.7 * vein) + 0.7 * vein * other)
    if kind == 1:
        shades = base * rng.uniform(0.45, 1.5, (6, 1)) + rng.uniform(-0.04, 0.04, (6, 3))
        specks = 0.5 * grains(rng, shades, size, 1) + 0.5 * grains(rng, shades, size, 2)
        return _limited(specks * (0.85 + 0.3 * cloud[..., None]))
    return tinted(0.7 * cloud + 0.3 * noise(rng, size, 32, 3), base, rng.uniform(0.12, 0.35))


def carpet(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Loops of several shades; plain, striped or in square tiles with turned pile."""
    base = colour_of(
        rng.choice([rng.normal(0.6, 0.05), rng.normal(0.08, 0.05), rng.random()]) % 1, rng.uniform(0, 0.75), rng.uniform(0.12, 0.6)
    )
    shades = base * rng.uniform(0.6, 1.45, (5, 1))
    pile = 0.5 * grains(rng, shades, size, 2) + 0.5 * base * (0.7 + 0.6 * noise(rng, size, 24, 3)[..., None])
    y, x = np.mgrid[:size, :size]
    kind = rng.integers(3)
    if kind == 1:
        pile = pile * np.where((x // (size // 2) + y // (size // 2)) % 2, 1.0, rng.uniform(0.75, 0.95))[..., None]
    elif kind == 2:
        stripe = np.sin(2 * np.pi * x * rng.integers(2, 9) / size) > rng.uniform(0, 0.9)
        pile = np.where(stripe[..., None], pile * rng.uniform(0.5, 1.6) + rng.uniform(-0.06, 0.06, 3), pile)
    return _limited(pile)


def tile_grid(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Tiles of varied format and bond with joints, each of its own shade."""
    rows, columns, shift = ((4, 4, 0), (8, 4, 0.5), (8, 8, 0), (2, 2, 0), (6, 2, 0.5), (3, 1, 0.33))[rng.integers(6)]
    base = colour_of(rng.choice([rng.normal(0.1, 0.05), rng.random()]) % 1, rng.choice([0.03, 0.15, 0.45]), rng.uniform(0.3, 0.95))
    spread, joint, width = rng.uniform(0.01, 0.12), rng.uniform(0.25, 0.85), rng.uniform(0.012, 0.03)
    y, x = np.mgrid[:size, :size] / size
    row = (y * rows).astype(int)
    across = x * columns + shift * row
    shade = 1 + spread * rng.uniform(-1, 1, (rows, columns))[row, across.astype(int) % columns]
    veined = 0.92 + 0.16 * noise(rng, size, 4, 5) if rng.random() < 0.6 else 1.0
    texture = base * (shade * veined)[..., None]
    is_joint = ((y * rows) % 1 < width * rows / 2) | (across % 1 < width * columns / 2)
    return _limited(np.where(is_joint[..., None], joint, texture))


def parquet(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Squares of parallel staves, every other one turned."""
    half = size // 2
    blocks = [wood(rng, half, planks=int(rng.integers(3, 7))) for _ in range(2)]
    blocks = [np.pad(block, ((0, 0), (0, half - block.shape[1]), (0, 0)), mode="edge") for block in blocks]
    first, turned = blocks[0], np.swapaxes(blocks[1] * (blocks[0].mean() / blocks[1].mean()), 0, 1)
    return _limited(np.concatenate([np.concatenate([first, turned], 1), np.concatenate([turned, first], 1)], 0))


def planks(rng: np.random.Generator, size: int = 512) -> np.ndarray:
    """A floor of boards, also grey, white or nearly black ones."""
    texture = wood(rng, size, planks=int(rng.choice([4, 8])))
    grey = texture.mean(axis=2, keepdims=True)
    texture = grey + (texture - grey) * rng.choice([1.0, 1.0, 0.6, 0.15])
    return _limited(texture * rng.choice([1.0, rng.uniform(0.45, 1.0), rng.uniform(1.0, 2.2)]))


def laminate(rng: np.random.Generator) -> np.ndarray:
    """The decor of furniture: strong or faint wood grain in many tones, or a plain colour with a fine structure."""
    if rng.random() < 0.4:
        tone = rng.choice([rng.uniform(0.75, 0.95), rng.uniform(0.3, 0.75), rng.uniform(0.03, 0.2)])
        return tinted(noise(rng, 128, 16, 3), colour_of(rng.random(), rng.choice([0.02, 0.05, 0.5]), tone), 0.05)
    texture = wood(rng)
    mean = texture.mean((0, 1))
    return _limited((mean + (texture - mean) * rng.uniform(0.25, 1.3)) * rng.uniform(0.6, 1.9))


def brushed(rng: np.random.Generator, size: int = 128) -> np.ndarray:
    """Brushed steel or aluminium."""
    return tinted(noise(rng, size, 8, 4, stretch=(0.125, 4)), np.array([1, 0.99, 0.97]) * rng.uniform(0.45, 0.8), 0.12)


def patterned_cloth(rng: np.random.Generator, colour: Colour, size: int = 128) -> np.ndarray:
    """Tweed, stripes, checks or large spots in shades of a colour."""
    colour = np.asarray(colour)
    other = np.clip(colour * rng.uniform(0.4, 1.6) + rng.uniform(-0.2, 0.2, 3), 0.03, 0.95)
    y, x = np.mgrid[:size, :size] / size
    count, cut = int(rng.integers(2, 12)), rng.uniform(-0.3, 0.7)
    stripes, cross = np.sin(2 * np.pi * count * x) > cut, np.sin(2 * np.pi * count * y) > cut
    share = (rng.random((size, size)), stripes * 1.0, 0.5 * stripes + 0.5 * cross, (noise(rng, size, 6, 2) > 0.55) * 1.0)[rng.integers(4)]
    mixed = colour + (other - colour) * share[..., None]
    return _limited(mixed * (0.85 + 0.3 * rng.random((size, size, 1))))


def worn(rng: np.random.Generator, texture: np.ndarray, strength: float) -> np.ndarray:
    """A texture with blotches, spots and scratches.

    Args:
        rng: random number generator.
        texture: (size, size, 3).
        strength: 0 for a clean surface, 1 for a floor after years of use.
    """
    size = len(texture)
    blotches = np.clip((noise(rng, size, 3, 5) - 0.5) * 4, 0, 1)
    factor = 1 - strength * rng.uniform(0.1, 0.5) * blotches
    y, x = np.mgrid[:size, :size]
    for _ in range(int(strength * rng.integers(0, 9))):
        centre, radius = rng.uniform(0, size, 2), rng.uniform(0.01, 0.06) * size
        spot = np.hypot(y - centre[0], x - centre[1]) + 0.3 * radius * noise(rng, size, 16, 2) < radius
        factor = np.where(spot, factor * rng.uniform(0.4, 0.9), factor)
    for _ in range(int(strength * rng.integers(0, 14))):
        start, angle, length = rng.uniform(0, size, 2), rng.uniform(0, np.pi), rng.uniform(0.05, 0.4) * size
        steps = np.arange(int(length))
        rows, columns = (start[0] + steps * np.sin(angle)).astype(int) % size, (start[1] + steps * np.cos(angle)).astype(int) % size
        factor[rows, columns] *= rng.uniform(0.5, 1.4)
    tint = np.array([1, rng.uniform(0.94, 1), rng.uniform(0.85, 1)])
    return _limited(texture * factor[..., None] * tint ** (strength * blotches[..., None]))
