"""Read the frames of a video with PyAV, and notice where they end too early."""

from collections.abc import Iterator
from contextlib import suppress
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

    FFmpeg takes the end of a file that was cut off for the end of the video. So the sizes that MP4, MOV, MKV, WebM and AVI files state are
    compared with what is there. Other formats, and recordings that were never closed, do not state them.

    Raises:
        VideoError: after the last frame that can be read, if others are missing.
        ImportError: without PyAV.
    """
    av, count = _pyav(), 0
    try:
        with av.open(str(path)) as container:
            for frame in _frames(container):
                count += 1
                yield frame
    except av.FFmpegError as error:
        if count == 0:
            raise VideoError(f"{path} cannot be read as a video: {error}") from error
        kind = "cut off" if missing_bytes(path) else "damaged"
        raise VideoError(f"{path} breaks off after frame {count}: {error}; it is {kind}; copy or record it again") from error
    except IndexError as error:
        raise VideoError(f"{path} cannot be read as a video: it has no video stream") from error
    if count == 0:
        raise VideoError(f"{path} has no frame that can be read; it is cut off or empty; copy or record it again")
    if missing := missing_bytes(path):
        raise VideoError(f"{path} lacks its last {missing:,} bytes, with the frames in them; it is cut off; copy or record it again")


def _frames(container: Any) -> Iterator["VideoFrame"]:
    """All frames that can be decoded, also those that the decoder holds back when it meets a broken part."""
    stream = container.streams.video[0]
    try:
        for packet in container.demux(stream):
            yield from packet.decode()
    except _pyav().FFmpegError:
        with suppress(_pyav().FFmpegError):
            yield from stream.decode(None)
        raise


def missing_bytes(path: Path) -> int:
    """How many bytes a file lacks to the end of its last element, as that states it; 0 if it is whole or its format states no sizes."""
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
            return 0
    return max(0, end - size)


_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # that an MP4 or MOV may begin with


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """The end of the last box of an MP4 or MOV (ISO/IEC 14496-12, section 4.2); the file's size where it is not stated."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        length = int.from_bytes(header[8:], "big") if length == 1 else length
        if length < 8:  # 0 is a box up to the end of the file
            return size
        position += length
    return position


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """The end of the last chunk of an AVI; large ones have several. The file's size where it is not stated, as before a recording's end."""
    position = end = 0
    while position + 8 <= size:
        file.seek(position)
        name, length = file.read(4), int.from_bytes(file.read(4), "little")
        if not name.isalnum() or length in (0, 0xFFFFFFFF):
            return size
        end = position + 8 + length
        position = end + length % 2
    return end


def _end_of_matroska(file: BinaryIO, size: int) -> int:
    """The end of the segment of an MKV or WebM (RFC 8794, section 6); the file's size where it is not stated, as in live recordings."""
    position = 0
    while position + 12 <= size:
        file.seek(position)
        header = file.read(16)
        width = 9 - header[4].bit_length()  # of the element's size, in bytes
        if width > 8:
            return size
        bits = 7 * width
        length = int.from_bytes(header[4 : 4 + width], "big") & ((1 << bits) - 1)
        position += 4 + width
        if header[:4] == _SEGMENT:
            return size if length == (1 << bits) - 1 else position + length
        position += length
    return size


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
