"""Proves that the missing end of a video that was cut off is noticed, and that complete videos of every kind are not doubted."""

# ruff: noqa: E402 (what follows importorskip)

import re
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av")

from mult_hf.inference.sources import FailedInput, InputImage, video_frames
from mult_hf.inference.videos import missing_bytes


def readable_frames(path):
    """The number of frames that FFmpeg can decode at all, broken packets left out."""
    count = 0
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[0]):
            with suppress(av.FFmpegError):
                count += len(packet.decode())
    return count


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])  # the second shows frames in another order than it stores them
@pytest.mark.parametrize("kind", ["avi", "mkv", "mp4", "mov"])
def test_the_missing_end_of_a_video_that_was_cut_off_is_reported(tmp_path, kind, codec, share):
    """FFmpeg takes it for the end of the video; of MP4 only if the index comes first, as in downloads."""
    whole, draws = tmp_path / f"whole.{kind}", np.random.default_rng(0)
    with av.open(str(whole), "w", options={"movflags": "faststart"} if kind in ("mp4", "mov") else {}) as container:
        stream = container.add_stream(codec, rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(60):
            noise = draws.integers(0, 256, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    assert [type(each) for each in video_frames(whole, "whole")] == [InputImage] * 60
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    *images, missing = video_frames(path, "cut")
    assert 0 < len(images) == readable_frames(path) < 60
    assert isinstance(missing, FailedInput)
    assert "it is cut off; copy or record it again" in missing.reason


@pytest.mark.parametrize(
    ("contents", "missing"),
    [
        (b"\0\0\0\x0cftypisom" + b"\0\0\0\x10mdat" + 8 * b"x", 0),
        (b"\0\0\0\x0cftypisom" + b"\0\0\0\x10mdat" + 5 * b"x", 3),
        (b"\0\0\0\x0cftypisom" + b"\0\0\0\0mdat" + 5 * b"x", None),  # up to the end of the file
        (b"\0\0\0\x0cftypisom" + b"\0\0\0\1mdat" + bytes(7) + b"\x20" + 6 * b"x", 10),  # a size of 64 bits
        (b"\0\0\0\x0cftypisom" + b"\0\0\0", 0),  # padding of less than a header
        (b"\0\0\0\x0cftypisom" + b"\r\n--boundary--", 0),  # of another program
        (b"RIFF\x08\0\0\0AVI LIST", 0),
        (b"RIFF\x05\0\0\0AVI L" + b"\0" + b"RIFF\x18\0\0\0AVIX", 20),  # chunks start at even positions
        (b"RIFF\x10\0\0\0AVI LIST", 0),  # a size that counts the first two fields, too
        (b"RIFF\x08\0\0\0AVI LISTcamera data", 0),
        (b"RIFF\x05\0\0\0AVI L", 0),  # whose last one may lack its padding
        (b"RIFF\0\0\0\0AVI LIST", None),  # a recording that was never closed
        (b"\x1a\x45\xdf\xa3\x81x" + b"\x18\x53\x80\x67\x84abcdefgh", 0),
        (b"\x1a\x45\xdf\xa3\x81x" + b"\x18\x53\x80\x67\x40\x0babcdefgh", 3),
        (b"\x1a\x45\xdf\xa3\x81x" + b"\x18\x53\x80\x67\x01" + 7 * b"\xff" + b"abcdefgh", None),  # a live recording
        (b"\x1a\x45\xdf\xa3\x81x" + b"\xec\x82vv" + b"\x18\x53\x80\x67\x40\x0babcdefgh", 3),  # after a void element
        (b"\x1a\x45\xdf\xa3\0" + 20 * b"x", None),
        (b"GIF89a", None),
        (b"", None),
    ],
)
def test_a_file_is_complete_if_its_last_element_ends_in_it(tmp_path, contents, missing):
    path = tmp_path / "video"
    path.write_bytes(contents)
    assert missing_bytes(path) == missing


def faststart(path):
    """A video of ten seconds, whose index comes first in an MP4."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(50):
            noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["mkv", "avi", "mp4"])
def test_a_download_that_broke_off_in_a_file_of_its_full_size_is_reported(tmp_path, kind):
    whole = faststart(tmp_path / f"whole.{kind}")
    path = tmp_path / f"reserved.{kind}"
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    *images, broken = video_frames(path, "clip")
    assert 0 < len(images) < 50
    assert re.search(r"lacks the last .* seconds of its frames; it is cut off|breaks off after frame \d+: .*; it is damaged", broken.reason)


def test_a_cut_mp4_whose_frames_run_to_the_end_of_the_file_is_reported(tmp_path):
    contents = bytearray(faststart(tmp_path / "whole.mp4"))
    start = contents.index(b"mdat")
    contents[start - 4 : start] = bytes(4)  # in place of its size
    (tmp_path / "cut.mp4").write_bytes(contents[: len(contents) // 2])
    *images, broken = video_frames(tmp_path / "cut.mp4", "clip")
    assert 0 < len(images) < 50
    assert "it is cut off; copy or record it again" in broken.reason


def test_a_section_of_a_stream_is_complete(tmp_path):
    """Of a fragmented MP4 that does not begin at 0, FFmpeg states the end of the track as its duration."""
    path = tmp_path / "live.mp4"
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}) as container:
        stream = container.add_stream("libx264", rate=5, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(50):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * number, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    contents = path.read_bytes()
    fragments = [match.start() - 4 for match in re.finditer(b"moof", contents)]
    path.write_bytes(contents[: fragments[0]] + contents[fragments[2] :])
    images = [*video_frames(path, "clip")]
    assert 30 < len(images) < 50
    assert {type(each) for each in images} == {InputImage}


@pytest.mark.parametrize("kind", ["mp4", "avi", "mkv"])
@pytest.mark.parametrize("trailer", [b"8db42d694ccc418790edff439fe026bf", b"\r\n--boundary--\r\n", bytes(20), bytes(range(1, 60))])
def test_what_another_program_wrote_behind_a_video_is_not_missed(tmp_path, kind, trailer):
    whole = faststart(tmp_path / f"whole.{kind}")
    (tmp_path / f"longer.{kind}").write_bytes(whole + trailer)
    assert [type(each) for each in video_frames(tmp_path / f"longer.{kind}", "clip")] == [InputImage] * 50


def test_a_damaged_video_is_reported_with_the_frames_before_the_damage(tmp_path):
    path = save_recording(tmp_path / "clip.mp4", range(0, 800, 4), codec="libx264")
    contents = bytearray(path.read_bytes())
    start = contents.index(b"mdat") + 4
    middle = (start + contents.index(b"moov")) // 2
    contents[middle:] = bytes(100) + contents[middle + 100 :]
    path.write_bytes(contents)
    *images, broken = video_frames(path, "clip")
    assert 0 < len(images) < 200
    assert re.search(r"breaks off after frame \d+: .*; it is damaged; copy or record it again", broken.reason)


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
        ("few frames.webm", [0, 4, 8, 400], 0.0),
        ("one frame.mkv", [0], 0.0),
    ],
)
def test_a_complete_video_is_not_taken_for_one_that_was_cut_off(tmp_path, name, times, sound):
    path = save_recording(tmp_path / name, times, sound=sound, codec={"wmv": "wmv2", "webm": "libvpx"}.get(name[-4:].strip("."), "mpeg4"))
    assert [type(each) for each in video_frames(path, "clip")] == [InputImage] * len(times)


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
