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

    FFmpeg takes the end of a file that was cut off for the end of the video. So frames of MP4, MOV, MKV, WebM and AVI are compared with the
    length that the file states. Other formats, and live recordings, do not state that of their frames.

    Raises:
        VideoError: after the last frame that can be read, if others are missing.
        ImportError: without PyAV.
    """
    av = _pyav()
    try:
        with av.open(str(path)) as container:
            count, start, end = 0, 0.0, 0.0
            for frame in container.decode(video=0):
                count, end = count + 1, _end_of_frame(frame)
                start = start if count > 1 else frame.time or 0.0
                yield frame
            stream = container.streams.video[0]
            interval = max(1 / float(stream.average_rate or 1), (end - start) / max(count, 1))
            missing = (_stated_end(container) or 0.0) - end if end > 0 else 0.0
    except av.FFmpegError as error:
        raise VideoError(f"{path} cannot be read as a video: {error}") from error
    except IndexError as error:
        raise VideoError(f"{path} cannot be read as a video: it has no video stream") from error
    if count == 0:
        raise VideoError(f"{path} has no frame that can be read; it is cut off or empty; copy or record it again")
    if missing > 2 * interval:
        raise VideoError(f"{path} lacks the last {missing:.3g} seconds of its frames; it is cut off; copy or record it again")


def _end_of_frame(frame: "VideoFrame") -> float:
    """When a frame ends, in seconds from the zero of the file's clock; 0 if it is not known."""
    duration = frame.duration * frame.time_base if frame.duration and frame.time_base else 0
    return 0.0 if frame.time is None else frame.time + float(duration)


def _stated_end(container: Any) -> float | None:
    """When the last frame ends according to the file, in seconds from the zero of its clock; None if it does not say so."""
    stream = container.streams.video[0]
    if container.format.name == "avi":  # FFmpeg shortens the stated length with the file; frames are counted with those that were dropped
        return stream.frames / float(stream.average_rate) if stream.average_rate else None
    if "matroska" in container.format.name:
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
        if tag:
            return sum(float(part) * unit for part, unit in zip(tag.groups(), (3600, 60, 1)))
        return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None  # sound may be longer
    if "mp4" in container.format.name and stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
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


__all__ = ["VideoError", "count_frames", "decode_video", "upright"]
