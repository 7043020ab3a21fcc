"""Proves that the missing end of a video that was cut off is noticed, and that complete videos of every kind are not doubted."""

# ruff: noqa: E402 (what follows importorskip)

import re
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av")

from mult_hf.inference.sources import FailedInput, InputImage, video_frames


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["avi", "mkv", "mp4"])
def test_the_missing_end_of_a_video_that_was_cut_off_is_reported(tmp_path, kind, share):
    """FFmpeg takes it for the end of the video; of MP4 only if the index comes first, as in downloads."""
    whole, draws = tmp_path / f"whole.{kind}", np.random.default_rng(0)
    with av.open(str(whole), "w", options={"movflags": "faststart"} if kind == "mp4" else {}) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 64, 48
        for _ in range(60):
            noise = draws.integers(0, 256, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    assert [type(each) for each in video_frames(whole, "whole")] == [InputImage] * 60
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    *images, missing = video_frames(path, "cut")
    assert 0 < len(images) < 60
    assert isinstance(missing, FailedInput)
    assert re.search(r"it is cut off; copy or record it again|cannot be read as a video", missing.reason)


def save_recording(path, times, *, sound=0.0, codec="mpeg4"):
    """A video with a frame at each of these times, in hundredths of a second, and seconds of silence."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream(codec, rate=25)
        picture.width, picture.height, picture.codec_context.time_base = 64, 48, Fraction(1, 100)
        silence = container.add_stream("pcm_s16le", rate=8000, layout="mono") if sound else None
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), time % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        for start in range(0, int(8000 * sound), 800):
            part = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            part.rate, part.pts = 8000, start
            container.mux(silence.encode(part))
    return path


REGULAR = range(0, 200, 4)


@pytest.mark.parametrize(
    ("name", "times", "sound"),
    [
        ("long sound.mkv", REGULAR, 5.0),
        ("long sound.mov", REGULAR, 5.0),
        ("long sound.avi", REGULAR, 5.0),
        ("late.mkv", range(50, 250, 4), 2.0),
        ("late.mov", range(50, 250, 4), 2.0),
        ("late.avi", range(50, 250, 4), 2.0),
        ("dropped frames.avi", [*range(0, 80, 4), *range(96, 200, 4)], 0.0),
        ("dropped frames.mkv", [*range(0, 80, 4), *range(96, 200, 4)], 0.0),
        ("another rate.avi", range(0, 600, 20), 0.0),
        ("late.wmv", range(50, 250, 4), 0.0),
        ("one frame.mkv", [0], 0.0),
    ],
)
def test_a_complete_video_is_not_taken_for_one_that_was_cut_off(tmp_path, name, times, sound):
    path = save_recording(tmp_path / name, times, sound=sound, codec="wmv2" if name.endswith("wmv") else "mpeg4")
    assert [type(each) for each in video_frames(path, "clip")] == [InputImage] * len(times)


def test_a_video_of_other_programs_does_not_state_the_length_of_its_frames(tmp_path):
    """Matroska's length is that of the longest stream; FFmpeg adds a tag for each."""
    path = save_recording(tmp_path / "clip.mkv", REGULAR, sound=5.0)
    path.write_bytes(path.read_bytes().replace(b"DURATION", b"SOMETHING"[:8]))
    assert [type(each) for each in video_frames(path, "clip")] == [InputImage] * len(REGULAR)


def test_a_video_without_frames_or_pictures_is_a_failed_input(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        silence.rate = 8000
        container.mux(sound.encode(silence))
    (failed,) = video_frames(path, "sound")
    assert "cannot be read as a video: it has no video stream" in failed.reason
    whole = save_recording(tmp_path / "whole.mkv", REGULAR)
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    *_, failed = video_frames(tmp_path / "cut.mkv", "cut")
    assert isinstance(failed, FailedInput)
