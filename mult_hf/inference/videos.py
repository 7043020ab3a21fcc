"""Read the frames of a video with PyAV, and notice where they end too early."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    FFmpeg takes the end of a file that was cut off for the end of the video, so frames are compared with the length that the file states.
    Transport streams and live recordings do not state one.

    Raises:
        VideoError: after the last frame that can be read, if others are missing.
        ImportError: without PyAV.
    """
    av = _pyav()
    try:
        with av.open(str(path)) as container:
            count, end = 0, 0.0
            for frame in container.decode(video=0):
                count, end = count + 1, _end_of_frame(frame)
                yield frame
            missing = _missing_seconds(container, count, end)
    except av.FFmpegError as error:
        raise VideoError(f"{path} cannot be read as a video: {error}") from error
    except IndexError as error:
        raise VideoError(f"{path} cannot be read as a video: it has no video stream") from error
    if count == 0:
        raise VideoError(f"{path} has no frame that can be read; it is cut off or empty; copy or record it again")
    if missing:
        raise VideoError(f"{path} lacks the last {missing:.3g} seconds of its frames; it is cut off; copy or record it again")


def _end_of_frame(frame: "VideoFrame") -> float:
    """When a frame ends, in seconds from the zero of the file's clock; 0 if it is not known."""
    duration = frame.duration * frame.time_base if frame.duration and frame.time_base else 0
    return 0.0 if frame.time is None else frame.time + float(duration)


def _missing_seconds(container: Any, frames: int, end: float) -> float:
    """By how much the frames end before the length that the file states for them; 0 for up to two frames, and where it states none.

    Args:
        container: the open file.
        frames: number of frames that were read.
        end: when the last of them ends, in seconds from the zero of the file's clock; 0 if it is not known.
    """
    stream = container.streams.video[0]
    if end <= 0 or 0 < stream.frames <= frames:
        return 0.0
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # how Matroska states it
    of_tag = sum(float(part) * unit for part, unit in zip(tag.groups(), (3600, 60, 1))) if tag else 0.0
    stated = float((stream.duration or 0) * stream.time_base) or of_tag or (container.duration or 0) / 1e6
    start = float((stream.start_time or 0) * stream.time_base)
    seconds_per_frame = 1 / float(stream.average_rate or 1)
    missing = start + stated - end
    if container.format.name == "avi":  # FFmpeg shortens the stated length with the file; MP4 counts frames that are not shown, too
        missing = max(missing, (stream.frames - frames) * seconds_per_frame)
    return missing if missing > 2 * seconds_per_frame else 0.0


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


__all__ = ["VideoError", "count_frames", "decode_video", "upright"]
