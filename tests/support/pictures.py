"""Pictures of random pixels in folders."""

import numpy as np
from PIL import Image


def save_images(directory, *names, size=(60, 50)):
    """Save one picture of this (width, height) per name, each with its own pixels; returns the directory."""
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(directory / name)
    return directory
