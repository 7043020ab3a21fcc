"""Proves that every image is found once, under a unique and stable name, and that broken inputs do not stop others."""

import errno
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader

from mult_hf.inference.sources import (
    FailedInput,
    FileSource,
    ImageStream,
    InputImage,
    RowSource,
    SkippedInput,
    by_size,
    find_files,
    video_frames,
)
from mult_hf.inference.videos import upright

av = pytest.importorskip("av")


def save_image(path, color=(10, 20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), color).save(path)
    return path


def save_video(path, frames=5):
    """Frame n is a grey of 40 n, modulo 256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 64, 48
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * number % 256, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def found_names(tmp_path, *inputs):
    return [image.name for image in FileSource(find_files([str(path) for path in inputs], tmp_path / "results"))]


# --- files


def test_equal_file_names_in_two_folders_and_equal_stems_in_one_get_unique_names(tmp_path):
    for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "b/c/x.jpg"):
        save_image(tmp_path / "images" / name)
    assert found_names(tmp_path, tmp_path / "images") == ["a/x.jpg", "b/c/x.jpg", "b/x.jpg", "b/x.png"]
    assert found_names(tmp_path, tmp_path / "images/a", tmp_path / "images/b/c") == ["a/x.jpg", "b/c/x.jpg"]
    assert found_names(tmp_path, tmp_path / "images/a") == ["x.jpg"]


def test_names_from_a_pattern_are_relative_to_its_fixed_part(tmp_path):
    save_image(tmp_path / "images/a/x.jpg")
    assert found_names(tmp_path, tmp_path / "images/*/*.jpg") == ["a/x.jpg"]
    save_image(tmp_path / "images/b/x.jpg")
    assert found_names(tmp_path, tmp_path / "images/*/*.jpg") == ["a/x.jpg", "b/x.jpg"]
    assert found_names(tmp_path, tmp_path / "images/**/x.*") == ["a/x.jpg", "b/x.jpg"]


def test_an_image_given_by_several_inputs_occurs_once(tmp_path):
    path = save_image(tmp_path / "a/x.jpg")
    assert found_names(tmp_path, path, path, tmp_path / "a", tmp_path / "a/*.jpg") == ["x.jpg"]


def test_a_file_name_with_the_characters_of_a_pattern_is_a_file(tmp_path):
    assert found_names(tmp_path, save_image(tmp_path / "a/[1].jpg")) == ["[1].jpg"]


def test_hidden_files_and_earlier_results_are_not_found_and_other_files_are_counted(tmp_path):
    for name in ("x.JPG", "._x.jpg", ".thumbnails/x.jpg", "results/panels/x.jpg"):
        save_image(tmp_path / "images" / name)
    for name in ("notes.txt", "more.txt", "LICENSE"):
        (tmp_path / "images" / name).write_text("words")
    found = find_files([str(tmp_path / "images")], leave_out=tmp_path / "images/results")
    assert [path.name for path in found.paths] == ["x.JPG"]
    assert found.ignored == {".txt": 2, "": 1}


def test_a_file_given_by_its_path_is_used_whatever_its_suffix(tmp_path):
    path = save_image(tmp_path / "x.png").rename(tmp_path / "x.scan")
    (image,) = FileSource(find_files([str(path)], tmp_path / "results"))
    assert image.read().getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("pattern", ["**/*.png", "**/**/*.png", "**", "*/*.png", "*", "s**b/**.png", "[s]ub/x*"])
def test_each_image_is_found_once_although_links_lead_back(tmp_path, pattern):
    """With two links to a folder above, the number of paths doubles at each of 40 levels."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.png").touch()
    (tmp_path / "sub" / ".hidden.png").touch()
    for name in ("one", "two"):
        (tmp_path / "sub" / name).symlink_to(tmp_path)
    found = find_files([str(tmp_path / pattern)], tmp_path / "out")
    assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == ["sub/x.png"]


def test_a_hidden_file_is_found_by_a_pattern_that_names_it(tmp_path):
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "x.png").touch()
    assert [path.name for path in find_files([str(tmp_path / ".h*.png")], tmp_path / "out").paths] == [".hidden.png"]


def test_a_folder_that_cannot_be_searched_is_a_failed_input(tmp_path, monkeypatch):
    """Its images would be missing without a word. Root may search every folder, so the refusal of the system is imitated."""
    for name in ("closed/x.png", "open/y.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    search = os.scandir

    def scandir(folder):
        if Path(folder).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return search(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    failed, found = FileSource(find_files([str(tmp_path)], tmp_path / "out"))
    assert failed.name == "closed"
    assert failed.reason == f"{tmp_path}/closed cannot be searched; make it readable, or leave it out"
    assert found.name == "open/y.png"


@pytest.mark.parametrize("missing", ["nothing.jpg", "nothing/*.jpg"])
def test_an_input_that_does_not_exist_is_refused(tmp_path, missing):
    with pytest.raises(ValueError, match=r"nothing.* does not exist; give images, videos, folders, or patterns"):
        find_files([str(tmp_path / missing)], tmp_path / "results")


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"there is no image or video in {tmp_path / 'empty'}; it is empty"):
        find_files([str(tmp_path / "empty")], tmp_path / "out")
    with pytest.raises(ValueError, match=r"there is no image or video in .*'\.txt': 1"):
        find_files([str(tmp_path)], tmp_path / "results")


# --- videos


def test_frames_of_a_video_are_named_by_their_number_and_counted(tmp_path):
    save_image(tmp_path / "a.jpg")
    save_video(tmp_path / "clip.mp4", frames=5)
    source = FileSource(find_files([str(tmp_path)], tmp_path / "results"), frame_step=2)
    images = list(source)
    assert [image.name for image in images] == ["a.jpg", "clip.mp4/000000", "clip.mp4/000002", "clip.mp4/000004"]
    assert len(source) == 1 + 5 // 2
    image = images[2].read()
    assert image.size == (64, 48)
    assert np.abs(np.asarray(image).astype(int) - 80).max() <= 4, "frame 2, as far as the codec keeps it"


@pytest.mark.parametrize("angle", [0, 90, -90, 180])
def test_frames_are_rotated_as_players_show_them(angle):
    """The top left pixel of a frame that is to be turned left by 90 degrees is its bottom left one afterwards."""
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[0, 0] = 255

    class Frame:
        rotation = angle

        def to_image(self):
            return Image.fromarray(pixels)

    expected = np.rot90(pixels, angle // 90)  # numpy turns left, too
    assert np.array_equal(np.asarray(upright(Frame())), expected)


def test_an_invalid_video_is_a_failed_input_and_not_counted(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"words")
    (broken,) = video_frames(path, "clip.mp4")
    assert broken.name == "clip.mp4"
    assert "cannot be read as a video" in broken.reason
    assert len(FileSource(find_files([str(path)], tmp_path / "results"))) == 0


def test_without_pyav_a_video_fails_with_what_to_install_and_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    save_image(tmp_path / "a.jpg")
    (tmp_path / "clip.mp4").write_bytes(b"any")
    source = FileSource(find_files([str(tmp_path)], tmp_path / "results"))
    assert len(source) == 1
    image, failed = source
    assert image.read().size == (8, 6)
    assert failed.name == "clip.mp4"
    assert 'pip install "mult-hf[video]"' in failed.reason


def test_without_its_plug_in_a_heic_image_fails_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "phone.HEIC").write_bytes(b"any")
    (outcome,) = ImageStream(FileSource(find_files([str(tmp_path)], tmp_path / "results")), name_and_width, is_seven)
    assert outcome.name == "phone.HEIC"
    assert "reading HEIC needs pillow-heif" in outcome.reason
    assert outcome.reason.endswith("install it with: pip install pillow-heif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_fail_without_being_opened(tmp_path):
    """Opening a pipe waits for its writer; a device may never end."""
    for name in ("pipe.png", "pipe.mp4"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    save_image(tmp_path / "good.png")
    source = FileSource(find_files([str(tmp_path)], tmp_path / "out"))
    assert len(source) == 3, "images count before they are looked at"
    outcomes = {outcome.name: outcome for outcome in source}
    assert isinstance(outcomes.pop("good.png"), InputImage)
    assert sorted(outcomes) == ["pipe.mp4", "pipe.png", "zero.png"]
    assert all("is a pipe, socket or device; give a regular file" in outcome.reason for outcome in outcomes.values())


@pytest.mark.parametrize("fails", ["prepare", "is_finished"])
def test_any_error_of_an_image_becomes_its_reason(fails):
    def fail_at_two(image):
        if image.name == "2":
            raise MemoryError
        return False

    functions = {"prepare": name_and_width, "is_finished": is_seven, fails: fail_at_two}
    outcomes = list(ImageStream(Numbers(4), **functions))
    assert len(outcomes) == 4
    assert outcomes[2] == FailedInput("2", "MemoryError"), "errors without a message are named"


def test_frames_before_a_broken_place_are_read_and_the_break_is_reported(tmp_path, monkeypatch):
    path = save_video(tmp_path / "clip.mp4")

    class Breaking:
        """A container whose third frame cannot be decoded."""

        def __init__(self, container):
            self.container, self.streams = container, container.streams

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.container.close()

        def decode(self, video):
            frames = self.container.decode(video=video)
            yield next(frames)
            yield next(frames)
            raise av.InvalidDataError(1, "Invalid data found")

    monkeypatch.setattr(av, "open", lambda name, original=av.open: Breaking(original(name)))
    *images, broken = video_frames(path, "clip.mp4")
    assert [image.name for image in images] == ["clip.mp4/000000", "clip.mp4/000001"]
    assert isinstance(broken, FailedInput)
    assert "Invalid data found" in broken.reason


# --- data sets


def make_dataset(cells, **columns):
    return Dataset.from_dict({"image": cells, **columns}).cast_column("image", ImageFeature())


def test_rows_are_named_by_number_and_id(tmp_path):
    path = str(save_image(tmp_path / "x.png"))
    assert [image.name for image in RowSource(make_dataset([path, path], id=["room 1/view", "room 1/view"]))] == [
        "000000-room_1_view",
        "000001-room_1_view",
    ]
    assert [image.name for image in RowSource(make_dataset([path]))] == ["000000"]


def test_rows_bring_their_focal_lengths_on_which_their_records_depend(tmp_path):
    """Otherwise a corrected focal length would leave the maps of the wrong one, as predicted before."""
    path = str(save_image(tmp_path / "x.png"))
    first, second, without = RowSource(make_dataset([path] * 3, focal_length=[50.0, 60.0, None]))
    (plain,) = RowSource(make_dataset([path]))
    assert [first.focal_length, second.focal_length, without.focal_length] == [50.0, 60.0, None]
    assert len({first.digest(), second.digest(), plain.digest()}) == 3
    assert without.digest() == plain.digest()


def test_labels_of_a_data_set_are_not_even_decoded(tmp_path):
    good, broken = str(save_image(tmp_path / "x.png")), tmp_path / "broken.png"
    broken.write_bytes(b"words")
    features = Features({"image": ImageFeature(), "depth": ImageFeature(), "id": Value("int64")})
    rows = Dataset.from_dict({"image": [good], "depth": [str(broken)], "id": [7]}, features=features)
    (image,) = RowSource(rows)
    assert image.name == "000000-7"
    assert image.read().size == (8, 6)


def test_a_data_set_without_images_is_refused():
    with pytest.raises(ValueError, match=r"columns \['picture'\]; the images must be in a column called 'image'"):
        RowSource(Dataset.from_dict({"picture": [1]}))


# --- sharing


class Numbers:
    """A given number of images, some of which are broken."""

    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken

    def read(self, number):
        """An image one pixel wider than its number."""
        if number in self.broken:
            raise OSError(f"image {number} is truncated")
        return Image.new("RGB", (number + 1, 1))

    def __iter__(self):
        return (InputImage(str(number), partial(self.read, number), str) for number in range(self.count))

    def __len__(self):
        return self.count


def name_and_width(image):
    return f"{image.name} is {image.read().width} wide"


def is_seven(image):
    return image.name == "7"


# --- sources of images


def only(source):
    (image,) = source
    return image


def test_the_record_of_a_file_depends_on_its_contents_and_not_on_its_name(tmp_path):
    save_image(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    a, b = FileSource(find_files([str(tmp_path)], tmp_path / "results"))
    assert a.digest() == b.digest()
    assert a.stamp() != b.stamp()
    before = a.record()
    assert a.record() == before
    os.utime(tmp_path / "a.png")
    assert a.stamp() != before.stamp
    assert a.digest() == before.digest
    (tmp_path / "a.png").write_bytes(b"other")
    assert a.digest() != before.digest


def test_the_record_of_a_row_depends_on_the_bytes_of_its_image(tmp_path):
    save_image(tmp_path / "a.png")
    features = Features({"image": ImageFeature()})
    bytes_of_it = (tmp_path / "a.png").read_bytes()
    stored = Dataset.from_dict({"image": [{"bytes": bytes_of_it, "path": None}]}, features=features)
    named = Dataset.from_dict({"image": [str(tmp_path / "a.png")]}, features=features)
    other = Dataset.from_dict({"image": [Image.new("RGB", (8, 6), "red")]}, features=features)
    digests = [only(RowSource(rows)).digest() for rows in (stored, named, other)]
    assert digests[0] == digests[1] != digests[2]
    assert only(RowSource(stored)).stamp() == ""


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_their_workers_share_images_without_duplicates(processes, workers):
    outcomes = []
    for process in range(processes):
        stream = ImageStream(Numbers(10, broken={4}), name_and_width, is_seven, process, processes)
        outcomes += list(DataLoader(stream, batch_size=None, num_workers=workers))
    expected = [f"{number} is {number + 1} wide" for number in range(10) if number not in (4, 7)]
    assert sorted(outcomes, key=str) == sorted([*expected, FailedInput("4", "image 4 is truncated"), SkippedInput("7")], key=str)


def test_finished_images_are_not_read():
    stream = ImageStream(Numbers(8, broken={7}), name_and_width, is_seven)
    assert list(stream)[-1] == SkippedInput("7")


class Sized:
    """Pixel values of a width."""

    def __init__(self, width):
        self.pixel_values = torch.zeros(3, 1, width)


def test_each_batch_has_one_size_and_no_item_is_lost():
    widths = [1, 2, 1, 1, 2, 3, 4, 5, 1, 6, 1]
    batches = [[item.pixel_values.shape[-1] for item in batch] for batch in by_size(map(Sized, widths), 3)]
    assert all(len(set(batch)) == 1 and len(batch) <= 3 for batch in batches)
    assert sorted(width for batch in batches for width in batch) == sorted(widths)
    assert batches[0] == [1, 1, 1], "a full batch goes at once"


def test_few_images_wait_for_any_number_of_sizes():
    taken = 0

    def items():
        nonlocal taken
        for width in range(1, 50):
            taken += 1
            yield Sized(width)

    given = 0
    for batch in by_size(items(), 4):
        given += len(batch)
        assert taken - given < 2 * 4
    assert given == 49
