"""Read the frames of a video with PyAV, and notice where they end too early."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

if TYPE_CHECKING:
    from av import VideoFrame


class VideoError(ValueError):
    """A video that cannot be read, or not to its end."""


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(f'reading videos needs PyAV ({error}); install it with: pip install "mult-hf[video]"') from error
    return av


def decode_video(path: Path) -> Iterator["VideoFrame"]:
    """Decode the frames of a video in order of time.

    FFmpeg takes the end of a file that was cut off for the end of the video. So what MP4, MOV, MKV, WebM and AVI files state of their sizes
    and times is compared with what is there. Other formats state no sizes, and neither do recordings that were never finished; there, a cut
    is not noticed.

    Raises:
        VideoError: after the last frame that can be read, if others are missing.
        ImportError: without PyAV.
    """
    av, read = _pyav(), _Read()
    try:
        with av.open(str(path)) as container:
            for frame in _frames(container):
                read.note(frame)
                yield frame
            missing = _missing(path, container, read)
    except av.FFmpegError as error:
        if read.count == 0:
            raise VideoError(f"{path} cannot be read as a video: {error}") from error
        kind = "cut off" if missing_bytes(path) else "damaged"
        raise VideoError(f"{path} breaks off after frame {read.count}: {error}; it is {kind}; copy or record it again") from error
    except IndexError as error:
        raise VideoError(f"{path} cannot be read as a video: it has no video stream") from error
    if read.count == 0:
        raise VideoError(f"{path} has no frame that can be read; it is cut off or empty; copy or record it again")
    if missing is not None:
        raise VideoError(f"{path} {missing}; it is cut off; copy or record it again")


def _frames(container: Any) -> Iterator["VideoFrame"]:
    """All frames that can be decoded, also those that the decoder holds back when it meets a broken part."""
    try:
        yield from container.decode(video=0)
    except _pyav().FFmpegError:
        with suppress(_pyav().FFmpegError):
            yield from container.streams.video[0].decode(None)
        raise


@dataclass
class _Read:
    """What was read of a video.

    Args:
        count: number of frames.
        start: when the first one begins, in seconds from the zero of the file's clock.
        end: when the last one ends; 0 if it is not known.
    """

    count: int = 0
    start: float = 0.0
    end: float = 0.0

    def note(self, frame: "VideoFrame") -> None:
        self.count += 1
        duration = frame.duration * frame.time_base if frame.duration and frame.time_base else 0
        self.end = 0.0 if frame.time is None else frame.time + float(duration)
        if self.count == 1:
            self.start = frame.time or 0.0


def _missing(path: Path, container: Any, read: _Read) -> str | None:
    """What a file lacks, in words; None if nothing.

    Times are looked at only where sizes do not decide: complete files may state longer times than those of their frames.
    """
    lost, is_reserved = missing_bytes(path), _ends_in_zeros(path)
    if lost:
        return f"ends {lost:,} bytes too early, so that its last frames may be missing"
    if lost == 0 and not is_reserved:
        return None
    stream = container.streams.video[0]
    tolerated = 2 * max(1 / float(stream.average_rate or 1), (read.end - read.start) / max(read.count, 1))  # times are rounded
    stated = _stated_end(container)
    if stated is None and is_reserved:
        stated = _roughly_stated_end(container)
    if stated is not None and 0 < read.end < stated - tolerated:
        return f"lacks the last {stated - read.end:.3g} seconds of its frames"
    return None


def _stated_end(container: Any) -> float | None:
    """When the last frame ends, in seconds from the zero of the file's clock; None if the file does not state it of its frames."""
    stream = container.streams.video[0]
    if "matroska" in container.format.name:
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
        return sum(float(part) * unit for part, unit in zip(tag.groups(), (3600, 60, 1))) if tag else None
    if "mp4" in container.format.name and stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    return None


def _roughly_stated_end(container: Any) -> float | None:
    """The same as far as others can state it: complete files may end earlier, because sound is longer or frames were dropped."""
    stream = container.streams.video[0]
    if container.format.name == "avi":
        return stream.frames / float(stream.average_rate) if stream.average_rate else None
    return container.duration / 1e6 if container.duration else None


def _ends_in_zeros(path: Path, size: int = 1024) -> bool:
    """Whether a file's size may have been reserved before a download that broke off."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return not file.read().strip(b"\0")


def missing_bytes(path: Path) -> int | None:
    """How many bytes a file lacks to the end of its last element, as that states it; 0 if it is whole, None if it states no sizes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start[:4] == b"RIFF":
            end = _end_of_riff(file, size)
        elif start[:4] == _EBML:
            end = _end_of_matroska(file, size)
        elif start[4:8] in _BOXES:
            end = _end_of_boxes(file, size)
        else:
            return None
    return None if end is None else max(0, end - size)


_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = frozenset((
    *(b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"meta", b"udta", b"uuid"),
    *(b"free", b"skip", b"wide", b"pnot", b"pdin"),
))  # fmt: skip
"""Outermost boxes of MP4 and MOV. What else follows the last one is from another program, such as data of a camera."""

_WHOLE_RIFF = 8
"""Bytes that the size of an AVI may be too large by: some programs count the first two fields, too."""


def _end_of_boxes(file: BinaryIO, size: int) -> int | None:
    """The end of the last box of an MP4 or MOV (ISO/IEC 14496-12, section 4.2); None if it runs to the end of the file."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        length = int.from_bytes(header[8:], "big") if length == 1 else length
        if header[4:8] not in _BOXES or 0 < length < 8:
            return size
        if length == 0:
            return None
        position += length
    return position


def _end_of_riff(file: BinaryIO, size: int) -> int | None:
    """The end of the last chunk of an AVI; large ones have several. None if it is not stated, as in a recording that was never closed."""
    position = end = 0
    while position + 8 <= size:
        file.seek(position)
        name, length = file.read(4), int.from_bytes(file.read(4), "little")
        if name == b"RIFF" and length in (0, 0xFFFFFFFF):
            return None
        if name != b"RIFF":
            break
        end = position + 8 + length
        position = end + length % 2
    return size if end <= size + _WHOLE_RIFF else end


def _end_of_matroska(file: BinaryIO, size: int) -> int | None:
    """The end of the segment of an MKV or WebM (RFC 8794, section 6); None if it is not stated, as in live recordings."""
    position = 0
    while position + 12 <= size:
        file.seek(position)
        header = file.read(16)
        of_name = 9 - header[0].bit_length()  # bytes
        of_length = 9 - header[of_name].bit_length() if of_name <= 4 else 9
        if of_length > 8:
            return None
        bits = 7 * of_length
        length = int.from_bytes(header[of_name : of_name + of_length], "big") & ((1 << bits) - 1)
        position += of_name + of_length
        if header[:of_name] == _SEGMENT:
            return None if length == (1 << bits) - 1 else position + length
        position += length
    return None


def upright(frame: "VideoFrame") -> Image.Image:
    """A frame rotated as video players show it, because phones store the orientation separately from the pixels."""
    return frame.to_image().rotate(frame.rotation, expand=True)


def count_frames(path: Path) -> int:
    """Number of frames of a video, for the progress bar: from its header, else from duration and frame rate, else 0."""
    try:
        av = _pyav()
    except ImportError:
        return 0  # `decode_video` reports it
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            seconds = (container.duration or 0) / av.time_base
            return stream.frames or int(seconds * (stream.average_rate or 0))
    except (av.FFmpegError, IndexError):
        return 0  # `decode_video` reports it


__all__ = ["VideoError", "count_frames", "decode_video", "missing_bytes", "upright"]
