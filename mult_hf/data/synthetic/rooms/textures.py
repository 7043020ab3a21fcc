"""Procedural surface textures: (height, width, 3) float arrays of display (sRGB) colours in [0, 1].

All repeat seamlessly unless the docstring says otherwise.
"""

from collections.abc import Sequence

import numpy as np

Colour = Sequence[float] | np.ndarray
"""Red, green, blue in [0, 1], display values."""

DARKEST, LIGHTEST = 0.01, 0.97
"""Range of albedos: no real surface is fully black or white, and light would never fade between white ones."""


def colour_of(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3,) display colour of a hue (a full turn is 1), saturation and value in [0, 1]."""
    # https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)


def noise(rng: np.random.Generator, size: int, cells: int = 4, octaves: int = 5, stretch: tuple[float, float] = (1, 1)) -> np.ndarray:
    """Value noise: the sum of smoothly interpolated random lattices, each twice as fine as the one before.

    Args:
        rng: random number generator.
        size: side in pixels.
        cells: lattice cells along a side in the coarsest octave.
        octaves: number of lattices; each has 0.55 of the strength of the one before.
        stretch: factors of the cells along rows and columns, for grain.

    Returns:
        `np.ndarray`: (size, size) in [0, 1], periodic.
    """
    total, weight, strength = np.zeros((size, size)), 0.0, 1.0
    for octave in range(octaves):
        rows, columns = (max(1, int(cells * 2**octave * factor)) for factor in stretch)
        lattice = np.pad(rng.random((rows, columns)), ((0, 1), (0, 1)), mode="wrap")
        total += strength * _interpolated(lattice, size)
        weight, strength = weight + strength, strength * 0.55
    return total / weight


def _interpolated(lattice: np.ndarray, size: int) -> np.ndarray:
    """A lattice (rows + 1, columns + 1) interpolated to (size, size) with smooth steps between its nodes."""
    (y, fraction_y), (x, fraction_x) = (_smooth_steps(cells - 1, size) for cells in lattice.shape)
    rows = lattice[y] * (1 - fraction_y)[:, None] + lattice[y + 1] * fraction_y[:, None]
    return rows[:, x] * (1 - fraction_x) + rows[:, x + 1] * fraction_x


def _smooth_steps(cells: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel: the lattice node before it, and its eased position between this node and the next."""
    position = np.linspace(0, cells, size, endpoint=False)
    node = position.astype(int)
    fraction = position - node
    return node, fraction * fraction * (3 - 2 * fraction)


def tinted(pattern: np.ndarray, colour: Colour, contrast: float) -> np.ndarray:
    """A (height, width) pattern in [0, 1] as lightness variations of a colour; a `contrast` of 0.2 means up to 20 % either way."""
    return np.clip(np.asarray(colour) * (1 + contrast * (2 * pattern[..., None] - 1)), DARKEST, LIGHTEST)


def plaster(rng: np.random.Generator, colour: Colour) -> np.ndarray:
    """A painted wall, nearly uniform."""
    return tinted(noise(rng, 128, 6), colour, 0.06)


def wood_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) display colour between pale birch and dark walnut."""
    return np.array([0.46, 0.29, 0.16]) * rng.uniform(0.55, 1.55) * np.array([1, rng.uniform(0.88, 1.08), rng.uniform(0.75, 1.1)])


def wood(rng: np.random.Generator, size: int = 256, planks: int = 1) -> np.ndarray:
    """Wood with its grain along the rows; several planks make a floor of boards with dark joints."""
    colour, width = wood_colour(rng), size // planks
    grain = noise(rng, size, 4, 6, stretch=(0.25, 3))
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (5 * grain + np.arange(size) / size))
    pattern = 0.65 * grain + 0.35 * rings
    if planks == 1:
        return tinted(pattern, colour, 0.38)
    boards = []
    for _ in range(planks):
        board = tinted(np.roll(pattern, rng.integers(0, size, 2), (0, 1))[:, :width], colour * rng.uniform(0.8, 1.18), 0.38)
        board[:, :2] *= 0.45
        cut = rng.integers(size)
        board[cut : cut + 2] *= 0.5
        boards.append(board)
    return np.clip(np.concatenate(boards, axis=1), DARKEST, LIGHTEST)


def tiles(rng: np.random.Generator, size: int = 256, across: int = 4) -> np.ndarray:
    """A square floor of tiles with grey joints, plain or as a chequerboard."""
    colour = colour_of(rng.random(), rng.uniform(0, 0.25), rng.uniform(0.4, 0.9))
    other = colour * rng.uniform(0.35, 1.0) if rng.random() < 0.5 else colour
    side, pattern = size // across, noise(rng, size, 3, 6)
    texture = np.empty((size, size, 3))
    for row, column in np.ndindex(across, across):
        place = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
        base = colour if (row + column) % 2 else other
        texture[place] = tinted(pattern[place], base * rng.uniform(0.93, 1.05), 0.22)
        texture[place][:2] = texture[place][:, :2] = 0.35
    return texture


def fabric(rng: np.random.Generator, colour: Colour, size: int = 128) -> np.ndarray:
    """Woven cloth."""
    y, x = np.mgrid[:size, :size]
    weave = 0.5 + 0.25 * np.sin(x * np.pi / 2) * np.sign(np.sin(y * np.pi / 4)) + 0.15 * rng.standard_normal((size, size))
    return tinted(0.6 * weave + 0.4 * noise(rng, size), colour, 0.3)


def wallpaper(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Stripes, dots, diamonds or waves in two shades."""
    hue = rng.normal(0.1, 0.06) if rng.random() < 0.6 else rng.random()
    ground = colour_of(hue, rng.uniform(0.03, 0.25), rng.uniform(0.6, 0.93))
    figure = np.clip(ground * rng.uniform(0.75, 1.12) + rng.uniform(-0.06, 0.06, 3), 0.05, 0.95)
    y, x = np.mgrid[:size, :size] / size
    count = rng.integers(4, 10)
    across, along = np.sin(2 * np.pi * count * x), np.sin(2 * np.pi * count * y)
    masks = (
        across > rng.uniform(-0.5, 0.5),
        across * along > 0.55,
        np.abs((x * count) % 1 - 0.5) + np.abs((y * count) % 1 - 0.5) < 0.3,
        np.sin(2 * np.pi * count * (x + 0.12 * along / count)) > 0.2,
    )
    texture = np.where(masks[rng.integers(len(masks))][..., None], figure, ground)
    return np.clip(texture * (0.975 + 0.05 * noise(rng, size))[..., None], DARKEST, LIGHTEST)


def brick(rng: np.random.Generator, size: int = 256, courses: int = 12) -> np.ndarray:
    """Bricks in running bond with pale mortar, red or whitewashed."""
    colour = np.full(3, rng.uniform(0.7, 0.88)) if rng.random() < 0.35 else np.array([0.5, 0.24, 0.17]) * rng.uniform(0.8, 1.6)
    pattern, height, length = noise(rng, size, 16, 4), size // courses, size // 4
    texture = np.full((size, size, 3), 0.62)
    for course, index in np.ndindex(courses, 4):
        rows = np.arange(course * height + 2, (course + 1) * height)
        columns = np.arange(2, length) + index * length + (course % 2) * length // 2
        place = np.ix_(rows, columns % size)
        texture[place] = tinted(pattern[place], colour * rng.uniform(0.75, 1.15), 0.3)
    return texture


def art(rng: np.random.Generator, size: int = 128) -> np.ndarray:
    """A picture to hang on a wall: a landscape or abstract, some with a white margin; does not repeat."""
    texture = _landscape(rng, size) if rng.random() < 0.5 else _abstract(rng, size)
    texture = texture * (0.85 + 0.3 * noise(rng, size, 16, 3))[..., None]
    margin = int(size * rng.uniform(0, 0.12))
    if margin:
        texture[:margin] = texture[-margin:] = 0.92
        texture[:, :margin] = texture[:, -margin:] = 0.92
    return np.clip(texture, DARKEST, LIGHTEST)


def _landscape(rng: np.random.Generator, size: int) -> np.ndarray:
    y = np.mgrid[:size, :size][0] / size
    texture = colour_of(rng.random(), 0.5, 0.9) * (1 - y[..., None]) + np.array([0.95, 0.8, 0.6]) * y[..., None]
    for ridge in range(4):
        skyline = 0.35 + 0.15 * ridge + 0.18 * (noise(rng, size, 3, 4)[0] - 0.5)
        texture[y > skyline] = colour_of(rng.uniform(0.2, 0.65), 0.5, 0.75 - 0.15 * ridge)
    return texture


def _abstract(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    texture = np.ones((size, size, 3)) * colour_of(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.5, 0.95))
    for _ in range(rng.integers(4, 14)):
        centre_x, centre_y, extent, flatness = rng.random(), rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.1, 1)
        circle = (x - centre_x) ** 2 + (y - centre_y) ** 2 < extent**2
        bar = (abs(x - centre_x) < extent) & (abs(y - centre_y) < extent * flatness)
        texture[circle if rng.random() < 0.5 else bar] = colour_of(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.2, 1))
    return texture


def outdoors(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """The view through a window: sky with clouds over a skyline of trees, sometimes houses; repeats horizontally only."""
    y, x = np.mgrid[:size, :size] / size
    clouds = np.clip(noise(rng, size, 3, 6) * 2.6 - 1.0, 0, 1)[..., None]
    sky = np.array([0.32, 0.55, 0.95]) * (1 - y[..., None]) + np.array([0.8, 0.88, 1.0]) * y[..., None]
    picture = sky * (1 - clouds) + clouds
    skyline = 0.62 + 0.16 * (noise(rng, size, 6, 5)[0] - 0.5)
    leaves = np.array([0.2, 0.34, 0.12]) * (0.3 + 1.2 * noise(rng, size, 12, 5)[..., None])
    picture = np.where((y > skyline)[..., None], leaves, picture)
    for _ in range(rng.integers(0, 5)):
        left, width, top = rng.uniform(0, 0.9), rng.uniform(0.08, 0.25), rng.uniform(0.25, 0.6)
        house = (x > left) & (x < left + width) & (y > top)
        panes = house & (((x - left) * 40 % 2 < 0.9) & ((y - top) * 40 % 3 < 1.6))
        picture[house] = colour_of(rng.uniform(0, 0.12), 0.3, rng.uniform(0.25, 0.6))
        picture[panes] = [0.3, 0.38, 0.45]
    return np.clip(picture, DARKEST, 1)
