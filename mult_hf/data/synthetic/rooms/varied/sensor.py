"""Convert radiance to an image: exposure and white balance (group "light"), lens, noise and processing (group "sensor")."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class Exposure:
    """Exposure and white balance of an image.

    Args:
        key: target mean of the automatic exposure, linear.
        centre_weight: 0 to meter the whole image equally, 1 to meter its centre only.
        grey_world: share of the illuminant's colour that the white balance removes.
        tint: (3,) error of the white balance.
        shoulder: luminance, in units of the exposure, that becomes white; low values blow out.
    """

    key: float
    centre_weight: float
    grey_world: float
    tint: tuple[float, ...]
    shoulder: float


def usual_exposure(rng: np.random.Generator) -> Exposure:
    """Exposure of the first version: slightly inexact."""
    return Exposure(0.25 * rng.uniform(0.85, 1.2), 0.0, 0.0, tuple(rng.uniform(0.95, 1.05, 3)), 3.0)


def varied_exposure(rng: np.random.Generator) -> Exposure:
    """From dark to blown out, from neutral to a strong cast."""
    key = 0.25 * np.exp(np.clip(rng.normal(-0.1, 0.5), -1.5, 1.1))
    warmth, green = rng.normal(0, 0.09), rng.normal(0, 0.04)
    tint = np.exp([warmth, green, -warmth])
    return Exposure(float(key), rng.uniform(0, 1), rng.uniform(0.3, 1.0), tuple(tint), float(np.exp(rng.uniform(np.log(1.2), np.log(6)))))


def expose(radiance: np.ndarray, exposure: Exposure) -> np.ndarray:
    """Scale linear radiance (height, width, 3) to the exposure's key and white balance."""
    height, width = radiance.shape[:2]
    y, x = np.mgrid[:height, :width] / np.reshape([height, width], (2, 1, 1)) - 0.5
    weight = 1 - exposure.centre_weight * np.clip(1.6 * np.hypot(x, y), 0, 1)
    level = np.exp((weight * np.log(radiance @ LUMINANCE + 1e-3)).sum() / weight.sum())
    means = np.exp(np.log(radiance + 1e-3).mean((0, 1)))
    gains = (means.mean() / means) ** exposure.grey_world * np.array(exposure.tint)
    return np.maximum(radiance, 0) * (exposure.key / level * gains)


def tone(exposed: np.ndarray, shoulder: float) -> np.ndarray:
    """Display values in [0, 1] by Reinhard's extended curve (SIGGRAPH 2002, equation 4) and sRGB's transfer function."""
    toned = np.clip(exposed * (1 + exposed / shoulder**2) / (1 + exposed), 0, 1)
    return np.where(toned <= 0.0031308, 12.92 * toned, 1.055 * np.maximum(toned, 1e-6) ** (1 / 2.4) - 0.055)


def through_lens(exposed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, glare and vignetting, then noise of the sensor: all on linear values (height, width, 3).

    Widths are for an image of 256 pixels and scale with its size. Nothing is moved, so that labels stay aligned.
    """
    scale = exposed.shape[1] / 256
    blur = rng.choice([0.0, rng.uniform(0.2, 0.7), rng.uniform(0.7, 1.3)], p=(0.35, 0.45, 0.2)) * scale
    image = gaussian_filter(exposed, (blur, blur, 0)) if blur > 0 else exposed
    if rng.random() < 0.2:
        image = _motion_blur(image, rng.uniform(1.5, 6) * scale, rng.uniform(0, 180))
    glare = rng.uniform(0, 0.08)
    wide = 12 * scale
    image = (1 - glare) * image + glare * gaussian_filter(np.minimum(image, 8), (wide, wide, 0))
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width] / np.reshape([height, width], (2, 1, 1)) - 0.5
    image = image * (1 - rng.choice([0, rng.uniform(0, 0.5)]) * 2 * (x**2 + y**2))[..., None]
    return _noisy(image, rng, scale)


def _motion_blur(image: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Smear along a line of `length` pixels."""
    size = 2 * int(np.ceil(length / 2)) + 1
    line = np.zeros((size, size))
    line[size // 2] = np.clip(length / 2 - np.abs(np.arange(size) - size // 2) + 0.5, 0, 1)
    kernel = np.clip(rotate(line, angle, reshape=False, order=1), 0, None)
    padded = np.pad(image, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)), mode="edge")
    total = np.zeros_like(image)
    for row, column in zip(*np.nonzero(kernel > 1e-3), strict=True):
        total += kernel[row, column] * padded[row : row + image.shape[0], column : column + image.shape[1]]
    return total / kernel[kernel > 1e-3].sum()


def _noisy(image: np.ndarray, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Shot and read noise, partly with the coarse grain of demosaicing."""
    shot, read = np.exp(rng.uniform(np.log(0.001), np.log(0.03))), np.exp(rng.uniform(np.log(0.0005), np.log(0.008)))
    noise = rng.standard_normal(image.shape)
    if rng.random() < 0.6:
        width = rng.uniform(0.3, 0.9) * scale
        noise = gaussian_filter(noise, (width, width, 0)) * (1 + 2 * width)
    grey = noise.mean(2, keepdims=True) * 1.5
    noise = grey + (noise - grey) * rng.uniform(0.3, 1.0)
    return np.maximum(image + noise * np.sqrt(shot**2 * np.maximum(image, 0) + read**2), 0)


def processed(display: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Processing by a camera's software: contrast, saturation, gamma, sharpening; display values in [0, 1]."""
    grey = (display @ LUMINANCE)[..., None]
    image = np.clip(grey + (display - grey) * rng.uniform(0.6, 1.6), 0, 1)
    image = image ** np.exp(rng.normal(0, 0.12))
    bend = rng.uniform(-0.1, 0.8)
    image = (1 - bend) * image + bend * image * image * (3 - 2 * image)
    black = rng.choice([0, rng.uniform(0, 0.1), rng.uniform(-0.08, 0)])  # haze, or crushed shadows
    image = np.clip(black + (1 - black) * image, 0, 1)
    if rng.random() < 0.4:
        image = image + rng.uniform(0.2, 1.0) * (image - gaussian_filter(image, (1.0, 1.0, 0)))
    return np.clip(image, 0, 1)


def compressed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A JPEG of quality 40 to 95 and back, (height, width, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(40, 96)))
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())))


def photograph(radiance: np.ndarray, groups: tuple[str, ...], light: np.random.Generator, sensor: np.random.Generator) -> np.ndarray:
    """Convert linear radiance to an image.

    Args:
        radiance: (height, width, 3), at least 0.
        groups: names of the groups that vary; `"light"` and `"sensor"` are used here.
        light: random number generator for exposure and white balance.
        sensor: random number generator for blur, noise, processing and compression.

    Returns:
        `np.ndarray`: (height, width, 3) uint8.
    """
    exposure = (varied_exposure if "light" in groups else usual_exposure)(light)
    exposed = expose(radiance, exposure)
    if "sensor" not in groups:
        return np.round(255 * tone(exposed, exposure.shoulder)).astype(np.uint8)
    display = processed(tone(through_lens(exposed, sensor), exposure.shoulder), sensor)
    image = np.round(255 * display).astype(np.uint8)
    return compressed(image, sensor) if sensor.random() < 0.7 else image
