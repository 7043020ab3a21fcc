"""Reading images of any usual form as RGB, and resizing label maps without mixing known and unknown pixels."""

import base64
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import cache
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO
from urllib.request import HTTPRedirectHandler, Request, build_opener

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from .cameras import film_equivalent, with_film_equivalent
from .tensors import check_dense
from .tiff import BROKEN, UNREADABLE, is_tiff, load_pixels, misread, negative

URL_SCHEMES = ("http://", "https://", "data:")
"""Prefixes of names that are URLs and not paths."""

MAX_DOWNLOAD_BYTES = 64 * 2**20
"""Largest file that is downloaded from a URL."""

DOWNLOAD_SECONDS = 30.0
"""Default time limit for the download of a URL, in seconds."""

MAX_REDIRECTS = 5
"""Largest number of redirects that are followed from one URL."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "BMP", "GIF", "PPM", "ICO", "JPEG2000", "TGA")
"""Formats that are read, by Pillow's names, whatever the suffix of a file. Pillow supports more, but starts other programs for some of
them (EPS)."""

_WIDENED_FORMATS = ("PNG", "PPM")
"""Formats whose 16-bit images Pillow returns as int32."""

_WHITE_8_BIT, _WHITE_16_BIT = 255, 65535
_WRONG_COLOURS = "mult_hf: wrong colours"  # key of `info`
_CHANNELS = (1, 3, 4)
_LONGEST_NAME = 200

LabelMap = Image.Image | np.ndarray | Tensor | None
"""One stored map: an image, an array, a tensor, or None where the sample lacks the task."""


def read_image(
    image: Any, name: str = "image", timeout: float | None = None, channels_last: bool | None = None
) -> Image.Image | np.ndarray | Tensor:
    """Read any usual image as RGB with values from 0 to 255.

    Accepts paths, URLs, the bytes of files (also in base64), open files, PIL images of any mode (16-bit, palette, CMYK; transparent images
    are put on white), and grey, RGB or RGBA arrays and tensors. EXIF rotation is applied.

    The type of an array determines its range: booleans are black and white, uint8 has 8 bits and uint16 has 16, however dark the image.
    Wider and signed integers are read as 16 bits if a value is above 255; otherwise they are ambiguous and refused. Floats are in [0, 1]
    if the highest value is at most 1, and in [0, 255] if it is at least 2; values between are ambiguous (bright or nearly black) and
    refused.

    Args:
        image: a path, a URL, the bytes of a file, base64 text, a file opened for reading bytes, an undecoded cell of `datasets` (a
            mapping with `bytes` or `path`), a PIL image, an array or a tensor. Files are of the formats in [`FORMATS`].
        name: of the image in error messages, if it has no file name.
        timeout: time limit for the download of a URL in seconds, 30 by default; its size is limited to 64 MiB.
        channels_last: whether an array's channels are its last axis; by default its shape decides, and one whose first and last
            axis may both be that of the channels is refused.

    Returns:
        An RGB PIL image, whose EXIF states the same focal length as the file's, or an array or tensor (on its device) of shape
        (3, height, width), uint8. Reading it again changes nothing (with `channels_last=False` for arrays).

    Raises:
        ValueError: if the image is empty, broken, too large, of another format, or has values or axes that are ambiguous; the message
            names it.
    """
    image = open_file(image, name, timeout)
    if isinstance(image, Image.Image):
        return _rgb_image(image, getattr(image, "filename", "") or name)
    if isinstance(image, np.ndarray):
        refuse_masked(image, name, "a colour")
        return _rgb_values(_as_tensor(image, name), name, channels_last).numpy()
    if isinstance(image, Tensor):
        return _rgb_values(image.detach(), name, channels_last)
    raise ValueError(f"{name} is a {type(image).__name__}; expected a path, a URL, a PIL image, an array, a tensor, bytes or an open file")


def open_file(image: Any, name: str = "image", timeout: float | None = None) -> Any:
    """Open the inputs of `read_image` that are files, without reading pixels; PIL images, arrays and tensors are returned unchanged.

    Raises:
        ValueError: as `read_image`.
    """
    if isinstance(image, Mapping):
        image = _content_of_cell(image, name)
    if isinstance(image, (str, Path)):
        name = str(image) if len(str(image)) <= _LONGEST_NAME else f"{str(image)[:_LONGEST_NAME]}..."
        opened: Any = _open_path(str(image), name, timeout)
        opened.filename = name  # a URL's has none
        return opened
    if isinstance(image, (bytes, bytearray, memoryview)):
        return open_image(BytesIO(image), name)
    return open_image(image, name) if hasattr(image, "read") else image


def readable_formats() -> list[str]:
    """The [`FORMATS`] that this installation can read: Pillow's, and HEIF with pillow-heif."""
    Image.init()
    _register_heif()
    return [name for name in FORMATS if name in Image.OPEN]


@cache
def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


def open_image(source: str | Path | BinaryIO, name: str | None = None) -> Image.Image:
    """Open a file with Pillow, as one of [`FORMATS`]; its pixels are not read yet.

    Args:
        source: path, or a file opened for reading bytes.
        name: of the image in error messages; the path by default.

    Raises:
        ValueError: if the file does not exist, is of another format, broken, or has more pixels than Pillow's limit; the message names
            it.
    """
    name = (str(source) if name is None else name)[:_LONGEST_NAME]
    try:
        file = os.path.expanduser(source) if isinstance(source, (str, Path)) else source
        return _noting_wrong_colours(Image.open(file, formats=readable_formats()))
    except IsADirectoryError:
        raise ValueError(f"{name} is a folder; give the path of one image (`mult-hf predict FOLDER` takes folders)") from None
    except FileNotFoundError:
        raise ValueError(f"{name or 'an empty name'} does not exist; give the path of an image, or a URL") from None
    except Image.UnidentifiedImageError:
        formats = readable_formats()
        heic = "" if "HEIF" in formats else "; HEIC needs pillow-heif"
        kinds = f", or {UNREADABLE}" if is_tiff(source) else ""
        raise ValueError(f"{name} cannot be read as an image: it is broken or none of {', '.join(formats)}{kinds}{heic}") from None
    except BROKEN as error:
        raise ValueError(f"{name} cannot be read as an image: {_reason(error)}") from None


def _noting_wrong_colours(image: Image.Image) -> Image.Image:
    """Note why a file would look wrong, because nothing shows it once its pixels were read or turned. Stored numbers of a map are right."""
    if reason := _wrong_colours(image):
        image.info[_WRONG_COLOURS] = reason
    return image


def _wrong_colours(image: Image.Image) -> str | None:
    """Why an image would look wrong, unless its colours were converted since."""
    noted = image.info.get(_WRONG_COLOURS) if image.mode.startswith("I") or "transparency" in image.info else None
    return noted or negative(image) or _transparent_in_16_bits(image)


def _reason(error: Exception) -> str:
    """The message of an error, without the path that an `OSError` repeats."""
    return str(getattr(error, "strerror", None) or error)[:_LONGEST_NAME]


def _content_of_cell(cell: Mapping[str, Any], name: str) -> Any:
    """The contents of an undecoded cell of `datasets`: bytes, or the path of a file."""
    content = cell.get("bytes") if cell.get("bytes") is not None else cell.get("path")
    if not isinstance(content, (bytes, bytearray, memoryview, str, Path)):
        raise ValueError(f"{name} is a mapping with {str(list(cell))[:_LONGEST_NAME]}; expected `bytes` of a file or its `path`")
    return content


def _open_path(source: str, name: str, timeout: float | None) -> Image.Image:
    if not source.startswith(URL_SCHEMES):
        return _open_local(source, name)
    try:
        content = _download(source, DOWNLOAD_SECONDS if timeout is None else timeout)
    except BROKEN as error:
        raise ValueError(f"{name} cannot be read as an image: {_reason(error)}") from None
    return open_image(content, name)


def _open_local(source: str, name: str) -> Image.Image:
    """Open a file, or base64 text, which transformers' pipelines accept in place of a path."""
    try:
        return open_image(source, name)
    except ValueError as error:
        no_path = error
    try:
        content = base64.b64decode("".join(source.split()), validate=True)
        return _noting_wrong_colours(Image.open(BytesIO(content), formats=readable_formats()))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} cannot be read as an image: {error}") from None
    except BROKEN:  # not base64, or not an image
        raise no_path from None


class _FewRedirects(HTTPRedirectHandler):
    """Follows at most [`MAX_REDIRECTS`], to web addresses only: urllib would also follow one to an FTP server."""

    max_redirections = MAX_REDIRECTS
    inf_msg = f"it redirects in a circle or more than {MAX_REDIRECTS} times; give the final URL. "

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        """The next request, as urllib asks for it."""
        if not newurl.startswith(("http://", "https://")):
            raise ValueError(f"it redirects to {newurl[:_LONGEST_NAME]}; only http and https are followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, timeout: float) -> BytesIO:
    """Download the bytes at a URL, within limits of time and size.

    A separate thread reads them, because the timeout of a socket applies to single operations only: not to a name lookup, and not to a
    server that sends its headers byte by byte.
    """
    content: Future[BytesIO] = Future()

    def read() -> None:
        try:
            content.set_result(_read_url(url, timeout))
        except BaseException as error:
            content.set_exception(error)

    Thread(target=read, daemon=True).start()
    try:
        return content.result(timeout)
    except TimeoutError:
        raise TimeoutError(f"the download took more than {timeout:g} s; give a longer `timeout`") from None


def _read_url(url: str, timeout: float) -> BytesIO:
    content, deadline = BytesIO(), time.monotonic() + timeout
    with build_opener(_FewRedirects).open(Request(url, headers={"User-Agent": "mult_hf"}), timeout=timeout) as response:
        read = getattr(response, "read1", response.read)  # whatever has arrived, instead of waiting for a slow server's last byte
        while chunk := read(2**16):
            content.write(chunk)
            if content.tell() > MAX_DOWNLOAD_BYTES:
                raise ValueError(f"it has more than {MAX_DOWNLOAD_BYTES:,} bytes; download it and give its path")
            if time.monotonic() > deadline:
                raise TimeoutError
    content.seek(0)
    return content


def _rgb_image(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"{name} has size {image.size[0]} x {image.size[1]}; it is empty")
    if reason := misread(image) or _wrong_colours(image):
        raise ValueError(f"{name} cannot be read: {reason}")
    try:
        load_pixels(image)
        upright = ImageOps.exif_transpose(image)
        upright.load()
    except BROKEN as error:
        raise ValueError(f"{name} is broken: {error}") from None
    return with_film_equivalent(_in_rgb(upright, name, is_widened=image.format in _WIDENED_FORMATS), film_equivalent(image))


def _transparent_in_16_bits(image: Image.Image) -> str | None:
    """Why the transparent colour of a PNG file would be mistaken. Greys of 16 bits stay such, and are told apart.

    If the caller has read the pixels, only a colour beyond 8 bits shows that the file had 16.
    """
    raw_modes = [tile.args if isinstance(tile.args, str) else (tile.args or [""])[0] for tile in getattr(image, "tile", [])]
    transparent = image.info.get("transparency")
    beyond_8_bits = image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > _WHITE_8_BIT
    if beyond_8_bits or (image.format == "PNG" and transparent is not None and "RGB;16B" in raw_modes):
        return "it is a PNG of 16 bits with a transparent colour, which Pillow's 8 bits cannot tell from others; store opacity as a channel"
    return None


def _in_rgb(image: Image.Image, name: str, *, is_widened: bool) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.array(image)
        if is_widened and image.mode != "F" and values.min() >= 0 and values.max() <= _WHITE_16_BIT:
            values = values.astype(np.uint16)
        if isinstance(transparent := image.info.get("transparency"), int):  # the one value that a PNG file declares to be so
            values[values == transparent] = _WHITE_16_BIT
        return Image.fromarray(_rgb_values(_as_tensor(values, name), name, None).permute(1, 2, 0).numpy())
    if image.has_transparency_data:
        image = _converted(image, "RGBA", name)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _converted(image, "RGB", name)


def _converted(image: Image.Image, mode: str, name: str) -> Image.Image:
    try:
        return image.convert(mode)
    except ValueError:
        raise ValueError(f"{name} has mode {image.mode}, which Pillow does not convert to {mode}; convert it to RGB beforehand") from None


def _as_tensor(array: np.ndarray, name: str) -> Tensor:
    """An array as a tensor; foreign byte orders, and unsigned integers that torch cannot compute with, are converted."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is an array of {array.dtype}; expected integers, floats or booleans")
    if array.dtype.kind == "u" and array.dtype.itemsize > 2:
        array = np.minimum(array, min(np.iinfo(array.dtype).max, np.iinfo(np.int64).max)).astype(np.int64)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _rgb_values(image: Tensor, name: str, channels_last: bool | None) -> Tensor:
    """Channels first, three of them, values in [0, 255]: by the type for integers, by the range for floats."""
    check_dense(image, name)
    shape = tuple(image.shape)
    if image.is_meta:
        raise ValueError(f"{name} is a tensor of shape {shape} on the meta device, without values; expected one on a CPU or GPU")
    first, last = (image.ndim == 3 and shape[axis] in _CHANNELS for axis in (0, -1))
    if channels_last is None and first and last and image.numel():  # an empty one is refused below
        raise ValueError(
            f"{name} has shape {shape}: its channels may be the first axis or the last; say which by input_data_format (in read_image: "
            f"channels_last), or pass a PIL image"
        )
    if image.ndim == 2:
        image = image[None]
    elif image.ndim == 3 and (channels_last or (channels_last is None and not first)):
        image = image.movedim(-1, 0)
    if image.ndim != 3 or image.shape[0] not in _CHANNELS:
        raise ValueError(f"{name} has shape {shape}; expected (height, width) or 1, 3 or 4 channels first or last")
    if image.numel() == 0:
        raise ValueError(f"{name} has shape {shape}; it is empty")
    image = _rgba_to_255(image, name) if image.shape[0] == 4 and image.is_floating_point() else _to_255(image, name)
    if image.shape[0] == 4:
        opacity = image[3:].float() / 255
        image = image[:3] * opacity + 255 * (1 - opacity)  # on white
    # 8 bits as in a file, because the range of a nearly black float image could not be recognised from its values later.
    return image.round().to(torch.uint8).expand(3, -1, -1)


def _rgba_to_255(image: Tensor, name: str) -> Tensor:
    """Floats with an opacity, which has the range of the colours, or [0, 1] beside colours in [0, 255]."""
    colours, opacity = image[:3], image[3:]
    highest, most_opaque = float(colours.max()), float(opacity.max())
    parts = torch.cat([_to_255(colours, name), _to_255(opacity, name)])  # each refused if its range is ambiguous
    if 0 < highest <= 1 < most_opaque:
        raise ValueError(
            f"{name} has colours up to {highest:g} and an opacity up to {most_opaque:g}; give both in [0, 1] or both in "
            f"[0, 255], or convert the image to uint8"
        )
    return parts


def images_of_array(images: np.ndarray | Tensor) -> list[np.ndarray | Tensor]:
    """The images of an array of several, in which the brightest image tells the range of all.

    Alone, a nearly black image with floats in [0, 255] would be read as in [0, 1] (see [`read_image`]).

    Args:
        images: (images, ...), as for [`read_image`]. Floats in [0, 255] become 8 bits if one has a value of 2 or more; images of 4
            channels, with an opacity, are left to [`read_image`].
    """
    floating = images.is_floating_point() if isinstance(images, Tensor) else images.dtype.kind == "f"
    with_opacity = 4 in (images.shape[1], images.shape[-1])  # has a range of its own
    if floating and not with_opacity and 0 not in images.shape and bool(images.min() >= 0) and 2 <= float(images.max()) <= 255:
        images = images.round().to(torch.uint8) if isinstance(images, Tensor) else images.round().astype(np.uint8)
    return list(images)


def _to_255(image: Tensor, name: str) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.bool:
        return image.to(torch.uint8) * 255
    if image.is_complex():
        raise ValueError(f"{name} is a tensor of {image.dtype}; expected integers, floats or booleans")
    if image.is_floating_point():
        image = image.float()
        low, high = image.min().item(), image.max().item()
        if not 0 <= low <= high <= 255:  # false for NaN, too
            raise ValueError(f"{name} has values from {low:g} to {high:g}; expected floats in [0, 1] or [0, 255]")
        if 1 < high < 2:  # resampling with a cubic filter overshoots
            raise ValueError(
                f"{name} has floats up to {high:g}: an image in [0, 1] that goes beyond, or a black one in [0, 255]; clip it to [0, 1], or "
                f"convert it to uint8"
            )
        return image * 255 if high <= 1 else image
    type_of_values, image = image.dtype, image.long()
    low, high = image.min().item(), image.max().item()
    if not 0 <= low <= high <= _WHITE_16_BIT:
        raise ValueError(f"{name} has values from {low:g} to {high:g}; expected integers of 8 or 16 bits")
    if type_of_values != torch.uint16 and 0 < high <= 255:
        raise ValueError(
            f"{name} is {str(type_of_values).removeprefix('torch.')} with values up to {high}: an image of 8 bits or a dark one of 16; "
            f"convert it to uint8 or uint16"
        )
    return image.float() / (_WHITE_16_BIT / 255)


def resize_label(target: Tensor, size: tuple[int, int], resample: str) -> Tensor:
    """Resize a target without mixing known and unknown pixels.

    Args:
        target: (channels, height, width) float with NaN unknown, or (height, width) class ids with 255 unknown.
        size: new height and width.
        resample: `"nearest"`, or `"bilinear"`: the mean over known pixels only, unknown if their weight is below one half.

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
        ValueError: if it is neither an image, nor an array, nor a dense tensor.
    """
    if isinstance(stored, Tensor):
        check_dense(stored, "a label map")
        stored = stored.float() if stored.dtype == torch.bfloat16 else stored  # which numpy does not have
        return stored.detach().cpu().resolve_neg().numpy()
    if isinstance(stored, Image.Image):
        load_pixels(stored)
    array = np.asarray(stored)
    if array.dtype == object or array.ndim == 0:
        got = f"str {stored[:60]!r}; open the file it names" if isinstance(stored, str) else type(stored).__name__
        raise ValueError(f"a label map is a PIL image, an array or a tensor, got {got}")
    refuse_masked(stored, "a label map", "a value that its encoding lists as unknown, or with NaN")
    return array


def refuse_masked(values: Any, name: str, with_what: str) -> None:
    """Refuse a masked array of numpy, whose mask torch would ignore.

    Raises:
        ValueError: if it masks anything; the message says what to fill it with.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{name} is a masked array, whose mask would be lost; call its filled() with {with_what}")


__all__ = [
    "BROKEN",
    "LabelMap",
    "images_of_array",
    "label_array",
    "open_file",
    "open_image",
    "read_image",
    "readable_formats",
    "refuse_masked",
    "resize_label",
]
