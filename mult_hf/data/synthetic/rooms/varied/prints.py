"""Images on surfaces: pages, covers, screens, keyboards, whiteboards, and views through windows.

(height, width, 3) float arrays of display (sRGB) colours in [0, 1]; they do not repeat.
"""

import numpy as np
from PIL import Image, ImageDraw

from ..textures import DARKEST, LIGHTEST, art, colour_of, noise, outdoors


def _ink(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = np.clip(255 * np.asarray(colour), 0, 255).astype(int)
    return int(red), int(green), int(blue)


def _canvas(width: int, height: int, colour: np.ndarray) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (width, height), _ink(colour))
    return picture, ImageDraw.Draw(picture)


def _finished(picture: Image.Image) -> np.ndarray:
    return np.clip(np.asarray(picture, float) / 255, DARKEST, LIGHTEST)


def _lines(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, box: tuple[float, float, float, float], height: float, ink: np.ndarray
) -> None:
    """Lines of dashes as long as words inside a box (left, top, right, bottom), `height` pixels from line to line."""
    left, top, right, bottom = box
    y = top
    while y + height < bottom:
        x, end = left, right if rng.random() < 0.8 else left + (right - left) * rng.uniform(0.2, 0.9)
        while x < end:
            word = height * rng.uniform(0.6, 4)
            draw.rectangle((x, y, min(x + word, end), y + 0.45 * height), fill=_ink(ink * rng.uniform(0.8, 1.6)))
            x += word + 0.5 * height
        y += height if rng.random() < 0.9 else 2 * height


def page(rng: np.random.Generator) -> np.ndarray:
    """A sheet of paper, upright: text, sometimes with a heading, a figure or a table."""
    picture, draw = _canvas(90, 128, np.array([0.95, 0.94, 0.91]) * rng.uniform(0.85, 1))
    ink = np.full(3, rng.uniform(0.1, 0.4))
    top = 10.0
    if rng.random() < 0.5:
        draw.rectangle((10, 10, rng.uniform(30, 78), 16), fill=_ink(colour_of(rng.random(), rng.uniform(0, 0.8), 0.4)))
        top = 22
    if rng.random() < 0.4:
        bottom = top + rng.uniform(20, 50)
        draw.rectangle((12, top, 78, bottom), fill=_ink(colour_of(rng.random(), 0.4, rng.uniform(0.4, 0.9))), outline=_ink(ink))
        top = bottom + 5
    _lines(draw, rng, (10, top, 80, rng.uniform(70, 122)), rng.uniform(3, 5), ink)
    return _finished(picture)


def cover(rng: np.random.Generator) -> np.ndarray:
    """The cover of a book, magazine or package: blocks of colour, text, sometimes a picture."""
    ground = colour_of(rng.random(), rng.uniform(0, 0.9), rng.uniform(0.15, 0.95))
    picture, draw = _canvas(96, 96, ground)
    if rng.random() < 0.4:
        image = Image.fromarray((255 * art(rng, 96)).astype(np.uint8))
        side = int(rng.uniform(40, 96))
        picture.paste(image.resize((side, side)), (int(rng.uniform(0, 97 - side)), int(rng.uniform(0, 97 - side))))
    for _ in range(rng.integers(1, 5)):
        left, top = rng.uniform(0, 80, 2)
        draw.rectangle(
            (left, top, left + rng.uniform(8, 80), top + rng.uniform(4, 40)),
            fill=_ink(colour_of(rng.random(), rng.uniform(0, 0.9), rng.uniform(0.1, 0.95))),
        )
    ink = np.full(3, 0.05 if ground.mean() > 0.45 else 0.55)
    _lines(draw, rng, (8, rng.uniform(8, 40), 88, rng.uniform(50, 90)), rng.uniform(4, 12), ink)
    return _finished(picture)


def screen(rng: np.random.Generator) -> np.ndarray:
    """A monitor's picture: windows with text on a plain or pictured desktop, sometimes dark, sometimes off."""
    kind = rng.random()
    if kind < 0.25:
        return np.full((8, 8, 3), rng.uniform(0.01, 0.04))
    picture, draw = _canvas(192, 108, colour_of(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.1, 0.8)))
    if kind < 0.5:
        picture.paste(Image.fromarray((255 * art(rng, 192)).astype(np.uint8)).crop((0, 0, 192, 108)), (0, 0))
    is_dark = rng.random() < 0.4
    for _ in range(rng.integers(0, 4)):
        left, top = rng.uniform(0, 110), rng.uniform(0, 50)
        right, bottom = left + rng.uniform(50, 150), top + rng.uniform(35, 90)
        ground, ink = (0.12, np.array([0.5, 0.6, 0.5])) if is_dark else (0.95, np.full(3, 0.25))
        draw.rectangle((left, top, right, bottom), fill=_ink(np.full(3, ground)))
        draw.rectangle((left, top, right, top + 5), fill=_ink(colour_of(rng.random(), 0.3, 0.6)))
        _lines(draw, rng, (left + 4, top + 9, right - 6, bottom - 3), rng.uniform(4, 7), ink)
    draw.rectangle((0, 103, 192, 108), fill=_ink(np.full(3, rng.uniform(0.05, 0.8))))
    return _finished(picture)


def keyboard(rng: np.random.Generator) -> np.ndarray:
    """Rows of keys, seen from above, stretched over a keyboard once."""
    body, keys = rng.choice([(0.05, 0.12), (0.75, 0.9), (0.2, 0.06), (0.6, 0.08)])
    picture, draw = _canvas(160, 56, np.full(3, body))
    for row in range(6):
        x = 4.0
        while x < 150:
            width = 7 if rng.random() < 0.85 else 14
            if row == 5 and 40 < x < 90:
                width = 40
            draw.rectangle((x, 4 + 8.3 * row, x + width - 1.5, 10.5 + 8.3 * row), fill=_ink(np.full(3, keys)))
            x += width + 0.5
    return _finished(picture)


def whiteboard(rng: np.random.Generator) -> np.ndarray:
    """Notes, boxes and arrows in marker colours on white."""
    picture, draw = _canvas(240, 144, np.full(3, rng.uniform(0.85, 0.96)))
    inks = [np.array(ink) for ink in ((0.1, 0.1, 0.12), (0.1, 0.2, 0.6), (0.7, 0.1, 0.1), (0.05, 0.45, 0.2))]
    for _ in range(rng.integers(1, 9)):
        x, y = rng.uniform(8, 190), rng.uniform(8, 110)
        ink = inks[rng.integers(4)]
        kind = rng.integers(3)
        if kind == 0:
            _lines(draw, rng, (x, y, x + rng.uniform(25, 60), y + rng.uniform(12, 50)), 6, ink)
        elif kind == 1:
            draw.rectangle((x, y, x + rng.uniform(15, 50), y + rng.uniform(10, 35)), outline=_ink(ink))
        else:
            points = np.cumsum([(x, y), *rng.uniform(-14, 14, (6, 2))], axis=0)
            draw.line([tuple(point) for point in points], fill=_ink(ink), width=1)
    return _finished(picture)


def outside(rng: np.random.Generator, size: int = 256) -> tuple[np.ndarray, float]:
    """The view through a window.

    Returns:
        `tuple`: (size, size, 3) image, and its brightness relative to a sunny landscape, which has 1.
    """
    kind = rng.random()
    if kind < 0.4:
        return outdoors(rng, size), float(rng.uniform(0.4, 1.3))
    if kind < 0.65:
        return _facade(rng, size), float(rng.uniform(0.2, 1.0))
    if kind < 0.85:
        haze = colour_of(rng.normal(0.58, 0.03), rng.uniform(0, 0.12), rng.uniform(0.9, 1.0))
        return np.clip(haze * (0.9 + 0.1 * noise(rng, size, 2, 3)[..., None]), DARKEST, 1), float(rng.uniform(0.7, 1.6))
    night = np.array([0.03, 0.04, 0.08]) * np.ones((size, size, 1))
    for _ in range(rng.integers(5, 60)):
        row, column = rng.integers(size // 3, size - 3), rng.integers(0, size - 3)
        night[row : row + 3, column : column + 3] = colour_of(rng.uniform(0.05, 0.15), 0.5, rng.uniform(0.3, 0.9))
    return night, float(rng.uniform(0.02, 0.1))


def _facade(rng: np.random.Generator, size: int) -> np.ndarray:
    """The house across the street, under a strip of sky."""
    y, x = np.mgrid[:size, :size] / size
    wall = colour_of(rng.normal(0.07, 0.04) % 1, rng.uniform(0.05, 0.5), rng.uniform(0.35, 0.85))
    picture = wall * (0.85 + 0.3 * noise(rng, size, 8, 5)[..., None])
    columns, rows = rng.integers(3, 9), rng.integers(2, 6)
    pane = (abs((x * columns) % 1 - 0.5) < rng.uniform(0.2, 0.35)) & (abs((y * rows) % 1 - 0.5) < rng.uniform(0.25, 0.38))
    picture[pane] = colour_of(0.58, rng.uniform(0, 0.4), rng.uniform(0.1, 0.6))
    picture[y < rng.uniform(0, 0.25)] = [0.85, 0.92, 1.0]
    return np.clip(picture, DARKEST, 1)
