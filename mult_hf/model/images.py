"""Reading images of any usual form as RGB, and resizing label maps without mixing known and unknown pixels."""

from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

URL_SCHEMES = ("http://", "https://", "data:")
"""How a name begins that is a URL and not a path."""

LabelMap = Image.Image | np.ndarray | Tensor | None
"""One stored map: an image, an array, a tensor, or None where the sample lacks the task."""


def read_image(
    image: Any, name: str = "image", timeout: float | None = None, channels_last: bool | None = None
) -> Image.Image | np.ndarray | Tensor:
    """Read any usual image as RGB with values from 0 to 255.

    Handles file names and URLs, PIL images of any mode (16-bit, palette, CMYK, with transparency, which is put on white), EXIF
    rotation, and grey, RGB or RGBA arrays and tensors: black and white, 8-bit, 16-bit, or floats in [0, 1] or [0, 255] (a float
    image whose highest value is at most 1 is read as one in [0, 1]).

    Args:
        image: a path, a URL, a PIL image, an array or a tensor.
        name: of the image in error messages, if it has no file name.
        timeout: seconds to wait for a URL.
        channels_last: whether an array's channels are its last axis; by default its shape decides, channels first if both are
            possible.

    Returns:
        An RGB PIL image, or an array or tensor (on its device) of shape (3, height, width), uint8. Reading it again changes
        nothing.

    Raises:
        ValueError: if the image is empty, broken, or has values or axes that are ambiguous; the message names it.
    """
    if isinstance(image, (str, Path)):
        name, image = str(image), _open(str(image), timeout)
    if isinstance(image, Image.Image):
        return _rgb_image(image, getattr(image, "filename", "") or name)
    if isinstance(image, np.ndarray):
        return _rgb_values(_as_tensor(image, name), name, channels_last).numpy()
    if isinstance(image, Tensor):
        return _rgb_values(image.detach(), name, channels_last)
    raise ValueError(f"{name} is a {type(image).__name__}; expected a path, a URL, a PIL image, an array or a tensor")


def _open(source: str, timeout: float | None) -> Image.Image:
    try:
        return Image.open(_download(source, timeout) if source.startswith(URL_SCHEMES) else source)
    except FileNotFoundError:
        raise ValueError(f"{source} does not exist; give the path of an image, or a URL") from None
    except (OSError, ValueError, HTTPException) as error:  # what files, connections and broken URLs raise
        raise ValueError(f"{source} cannot be read as an image: {error}") from None


def _download(url: str, timeout: float | None) -> BytesIO:
    """The bytes that a URL names."""
    with urlopen(Request(url, headers={"User-Agent": "mult_hf"}), timeout=timeout) as response:
        return BytesIO(response.read())


def _rgb_image(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"{name} has size {image.size[0]} x {image.size[1]}; it is empty")
    try:
        image = ImageOps.exif_transpose(image)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises any of these on broken data
        raise ValueError(f"{name} is broken: {error}") from None
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_rgb_values(_as_tensor(np.array(image), name), name, None).permute(1, 2, 0).numpy())
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _as_tensor(array: np.ndarray, name: str) -> Tensor:
    """An array as a tensor; unsigned integers that torch cannot compute with, and foreign byte orders, are converted."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is an array of {array.dtype}; expected integers, floats or booleans")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _rgb_values(image: Tensor, name: str, channels_last: bool | None) -> Tensor:
    """Channels first, three of them, values in [0, 255]: by the type for integers, by the range for floats."""
    shape = tuple(image.shape)
    if image.ndim == 2:
        image = image[None]
    elif image.ndim == 3 and (channels_last or (channels_last is None and image.shape[0] not in (1, 3, 4))):
        image = image.movedim(-1, 0)
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ValueError(f"{name} has shape {shape}; expected (height, width) or 1, 3 or 4 channels first or last")
    if image.numel() == 0:
        raise ValueError(f"{name} has shape {shape}; it is empty")
    image = _to_255(image, name)
    if image.shape[0] == 4:
        opacity = image[3:].float() / 255
        image = image[:3] * opacity + 255 * (1 - opacity)  # on white
    # 8 bits as in a file: the range of a nearly black float image could not be told from its values later.
    return image.round().to(torch.uint8).expand(3, -1, -1)


def _to_255(image: Tensor, name: str) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.bool:
        return image.to(torch.uint8) * 255
    if image.is_complex():
        raise ValueError(f"{name} is a tensor of {image.dtype}; expected integers, floats or booleans")
    floating = image.is_floating_point()
    image = image.float() if floating else image.long()
    low, high = image.min().item(), image.max().item()
    if not 0 <= low <= high <= (255 if floating else 65535):  # false for NaN, too
        raise ValueError(f"{name} has values from {low:g} to {high:g}; expected floats in [0, 1] or [0, 255], or integers of 8 or 16 bits")
    if floating:
        return image * 255 if high <= 1 else image
    return image.to(torch.uint8) if high <= 255 else image.float() / 257  # 65535 / 255


def resize_label(target: Tensor, size: tuple[int, int], resample: str) -> Tensor:
    """Resize a target without mixing known and unknown pixels.

    Args:
        target: (channels, height, width) float with NaN unknown, or (height, width) class ids with 255 unknown.
        size: new height and width.
        resample: `"nearest"`, or `"bilinear"`: the mean over known pixels only, unknown where they weigh less than half.

    Returns:
        `Tensor`: the target at the new size, in its own type.
    """
    if tuple(target.shape[-2:]) == tuple(size):
        return target
    if resample == "nearest" or not target.is_floating_point():
        batch = target.to(torch.float32).reshape(1, -1, *target.shape[-2:])
        return F.interpolate(batch, size=size, mode="nearest-exact").reshape(*target.shape[:-2], *size).to(target.dtype)
    known = torch.isfinite(target).all(dim=0, keepdim=True).to(target.dtype)
    both = torch.cat([torch.where(known.bool(), target, 0), known])[None]
    both = F.interpolate(both, size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    values, weight = both[:-1], both[-1:]
    return torch.where(weight >= 0.5, values / weight.clamp(min=1e-6), torch.nan)


def label_array(stored: Image.Image | np.ndarray | Tensor) -> np.ndarray:
    """A stored label map as an array, with palette ids and bit depth as in the file.

    Raises:
        ValueError: if it is neither an image, nor an array, nor a tensor.
    """
    if isinstance(stored, Tensor):
        return stored.detach().cpu().numpy()
    array = np.asarray(stored)
    if array.dtype == object or array.ndim == 0:
        raise ValueError(f"a label map is a PIL image, an array or a tensor, got {type(stored).__name__}")
    return array


__all__ = ["LabelMap", "label_array", "read_image", "resize_label"]
