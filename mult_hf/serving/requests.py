"""Read a request for predictions: the image's bytes and the options, within limits.

The image arrives in one of three ways: as the body (`image/*` or `application/octet-stream`), as the file `image` of a form
(`multipart/form-data`), or in base64 under the key `image` of a JSON object. Options are query parameters, fields of the form, or keys of
the object. URLs are never fetched.
"""

import base64
import binascii
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from mult_hf.model.images import open_image, read_image

OPTIONS = ("tasks", "format", "max_side", "focal_length")
"""Names of the options."""

IMAGE = "image"
"""Name of the image in forms and JSON objects, and in error messages."""

OVERHEAD = 2**16
"""Bytes that a body may have beyond the image: boundaries of a form, keys of a JSON object, options."""

FOCAL_LENGTHS = (1.0, 1e7)
"""Smallest and largest focal length in pixels: those of a fisheye lens in a tiny image, and of a telescope in a huge one."""

MAX_FIELDS = 32
"""Largest number of fields of a form."""


class HttpError(Exception):
    """An answer other than 200, with a message of one line.

    Args:
        status: HTTP status.
        message: what was received, what is allowed and what to do.
        headers: additional headers.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message)
        message = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()  # half a character, as in JSON's "\\ud800"
        self.status, self.message, self.headers = status, message, dict(headers or {})


@dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Args:
        max_bytes: largest size of an image file, in bytes.
        max_pixels: largest number of pixels of an image, read from its header before decoding.
        max_side: longest side of maps in pixels; larger images get maps of this size. A request may ask for smaller maps.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_side: int = 2048


@dataclass(frozen=True)
class PredictionRequest:
    """What a client asks for.

    Args:
        content: bytes of the image file.
        tasks: names of the tasks, in the client's order.
        format: name of the format of the answer.
        max_side: longest side of the maps in pixels.
        focal_length: in pixels of the image; None where the client does not know it.
    """

    content: bytes
    tasks: list[str]
    format: str
    max_side: int
    focal_length: float | None = None


@dataclass(frozen=True)
class Choices:
    """What a client may ask for; the first format is the default.

    Args:
        tasks: names of the offered tasks, which are all predicted by default.
        formats: names of the formats.
        limits: limits of a request.
        has_camera: whether the model has a canonical camera, so that a focal length has an effect.
    """

    tasks: Sequence[str]
    formats: Sequence[str]
    limits: Limits
    has_camera: bool = False


async def read_request(request: Request, choices: Choices) -> PredictionRequest:
    """Read and check a request.

    Raises:
        HttpError: 413 if the request is too large, 415 if its media type is not supported, 422 if its contents are invalid.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    reader = _READERS.get(media_type, _read_raw if media_type.startswith("image/") else None)
    if reader is None:
        expected = f"image/*, {', '.join(_READERS)}"
        raise HttpError(415, f"the content type is {media_type[:80]!r}; expected {expected} (for curl: -H 'Content-Type: image/jpeg')")
    content, in_body = await reader(request, choices.limits)
    if not content:
        raise HttpError(422, "the image is empty; send the bytes of an image file")
    _check_bytes(len(content), choices.limits.max_bytes)
    in_query: dict[str, Any] = {key: ",".join(request.query_params.getlist(key)) for key in request.query_params}
    if twice := sorted(in_query.keys() & in_body.keys()):
        raise HttpError(422, f"both the body and the URL set {', '.join(twice)}; give each once")
    return _with_options(content, {**in_query, **in_body}, choices)


def open_request_image(content: bytes, limits: Limits) -> Image.Image:
    """Decode a request's image: upright, RGB.

    Raises:
        HttpError: 413 if the image has too many pixels, 422 if it cannot be read.
    """
    try:
        opened = open_image(BytesIO(content), "the image")
        if opened.width * opened.height > limits.max_pixels:
            raise HttpError(413, f"the image has {opened.width:,} x {opened.height:,} pixels; at most {limits.max_pixels:,} are allowed")
        return cast("Image.Image", read_image(opened, "the image"))  # it returns an array only for an array
    except ValueError as error:
        if isinstance(error.__context__, Image.DecompressionBombError):  # by its header, above Pillow's own limit
            most = min(limits.max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or limits.max_pixels))
            raise HttpError(413, f"the image has more than the {most:,} pixels that are allowed") from None
        raise HttpError(422, str(error)) from None


def _with_options(content: bytes, options: Mapping[str, Any], choices: Choices) -> PredictionRequest:
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise HttpError(422, f"{', '.join(unknown)[:200]} cannot be set; the options are {', '.join(OPTIONS)}")
    tasks = _names(options.get("tasks"))
    if tasks is None or not set(tasks) <= set(choices.tasks):
        raise HttpError(422, f"tasks is {str(options['tasks'])[:200]!r}; choose from {', '.join(choices.tasks)}, separated by commas")
    answer_format = options.get("format", choices.formats[0])
    if answer_format not in choices.formats:
        raise HttpError(422, f"format is {str(answer_format)[:80]!r}; choose from {', '.join(choices.formats)}")
    side, focal_length = _side(options, choices.limits.max_side), _focal_length(options.get("focal_length"), choices)
    return PredictionRequest(content, tasks or list(choices.tasks), answer_format, side, focal_length)


def _names(tasks: Any) -> list[str] | None:
    """Names without duplicates, from comma-separated text or a list of strings; None if it is neither."""
    names = tasks.split(",") if isinstance(tasks, str) else [] if tasks is None else tasks
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return list(dict.fromkeys(filter(None, (name.strip() for name in names))))


def _side(options: Mapping[str, Any], max_side: int) -> int:
    side = options.get("max_side", max_side)
    text = str(side)
    if isinstance(side, bool) or not (text.isdecimal() and len(text) < 10 and 1 <= int(text) <= max_side):
        raise HttpError(422, f"max_side is {text[:80]!r}; give a whole number of pixels from 1 to {max_side}")
    return int(text)


def _focal_length(given: Any, choices: Choices) -> float | None:
    if given is None:
        return None
    if not choices.has_camera:
        raise HttpError(422, "focal_length is set, but the model predicts the same for every focal length; leave it out")
    least, most = FOCAL_LENGTHS
    try:
        pixels = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        pixels = math.nan
    if not least <= pixels <= most:  # false for NaN, too
        raise HttpError(422, f"focal_length is {str(given)[:80]!r}; give a number of pixels of the image from {least:g} to {most:g}")
    return pixels


# --- bodies


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body of at most this many bytes; a longer one is not read to its end."""
    stated = request.headers.get("content-length", "")
    if stated.isdecimal():
        _check_bytes(int(stated), max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        _check_bytes(size, max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _check_bytes(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise HttpError(413, f"the request has {size:,} bytes or more; at most {max_bytes:,} are allowed; send a smaller image")


async def _read_raw(request: Request, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    return await _read_body(request, limits.max_bytes), {}


async def _read_form(request: Request, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    body = await _read_body(request, limits.max_bytes + OVERHEAD)

    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        form = await MultiPartParser(request.headers, cast(Any, stream()), max_files=1, max_fields=MAX_FIELDS).parse()
    except (MultiPartException, LookupError, UnicodeError) as error:  # LookupError: there is no boundary, or no such charset
        raise HttpError(422, f"the form cannot be read: {error}; send one file, called `{IMAGE}`") from None
    try:
        file = form.get(IMAGE)
        if not isinstance(file, UploadFile):
            raise HttpError(422, f"the form has {sorted(form)}; expected a file called `{IMAGE}`")
        content = await file.read()
    finally:
        await form.close()
    return content, {key: ",".join(map(str, form.getlist(key))) for key in form if key != IMAGE}


async def _read_json(request: Request, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    body = await _read_body(request, limits.max_bytes * 4 // 3 + OVERHEAD)  # base64 has 4 characters for 3 bytes
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HttpError(422, f"the body is not JSON: {error}"[:300]) from None
    if not isinstance(values, dict) or not isinstance(values.get(IMAGE), str):
        raise HttpError(422, f"the body is not a JSON object with the key `{IMAGE}`; put the image's file there, in base64")
    text = values.pop(IMAGE)
    try:
        return base64.b64decode(text, validate=True), values
    except (binascii.Error, ValueError):
        raise HttpError(422, f"`{IMAGE}` is not base64: {text[:40]!r}; encode the image's file (URLs are not fetched)") from None


_READERS: dict[str, Callable[[Request, Limits], Awaitable[tuple[bytes, dict[str, Any]]]]] = {
    "application/octet-stream": _read_raw,
    "multipart/form-data": _read_form,
    "application/json": _read_json,
}
"""Functions that read a body, by its media type; any `image/*` is read by `_read_raw`."""

__all__ = ["Choices", "HttpError", "Limits", "PredictionRequest", "open_request_image", "read_request"]
