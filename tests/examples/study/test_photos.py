"""Frames of a video become squares in three splits that share no part of the video."""

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image as PILImage

from examples.study.photos import main, middle_square, parts, squares
from examples.study.train_stacks import groups_of
from mult_hf.data.schema import load_rows, load_task_specs

DEPTH = {"name": "depth", "encoding": {"dtype": "uint16", "scale": 0.01, "unknown": [0]}}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """103 frames of 30 x 20 pixels, at a depth of (10 + the frame's number) cm; of the middle square, the first pixel is not known, and the
    first four are white.
    """

    def frame(number):
        depth = np.full((20, 30), 10 + number, np.uint16)
        depth[0, 5] = 0
        image = PILImage.new("RGB", (30, 20), (number, 0, 0))
        image.paste((255, 255, 255), (5, 0, 7, 2))
        return {"image": image, "depth": PILImage.fromarray(depth), "name": str(number)}

    directory = tmp_path_factory.mktemp("video") / "frames"
    directory.mkdir()
    features = Features({"image": Image(), "depth": Image(), "name": Value("string")})
    Dataset.from_list([frame(number) for number in range(103)], features=features).to_parquet(
        directory / "validation-00000-of-00001.parquet"
    )
    DatasetCard(f"---\n{DatasetCardData(mult_tasks=[DEPTH]).to_yaml()}\n---\n").save(directory / "README.md")
    return directory


def test_splits_are_consecutive_parts_and_every_frame_is_in_one(video, tmp_path):
    main([str(video), str(tmp_path / "squares"), "--size", "20"])
    splits = load_rows(tmp_path / "squares")
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 50, "validation": 10, "test": 43}
    assert [sorted(set(groups_of(rows))) for rows in splits.values()] == [[0, 1, 2, 3, 4], [5], [6, 7, 8, 9, 10]]
    encoding = load_task_specs(tmp_path / "squares")["depth"].encoding
    metres = [encoding.decode(np.asarray(row["depth"])) for rows in splits.values() for row in rows]
    np.testing.assert_allclose([frame[0, 1, 1] for frame in metres], 0.1 + 0.01 * np.arange(103), atol=1e-6)
    assert all(np.isnan(frame[0, 0, 0]) for frame in metres), "the middle square begins at the sixth column"
    assert splits["test"][0]["image"].size == splits["test"][0]["depth"].size == (20, 20)
    assert [splits["test"][0]["image"].getpixel((x, 0)) for x in (1, 2)] == [(255, 255, 255), (60, 0, 0)]


def test_squares_are_resized_without_being_squeezed(video, tmp_path):
    main([str(video), str(tmp_path / "squares"), "--size", "10"])
    row = load_rows(tmp_path / "squares", split="test")[0]
    assert row["image"].size == row["depth"].size == (10, 10)
    white, beside = (np.asarray(row["image"])[0, x].astype(int) for x in (0, 3))
    assert white.min() > 150, "two pixels of the frame are one"
    assert abs(beside - (60, 0, 0)).max() < 10


def test_a_map_that_does_not_show_what_its_image_shows_is_refused():
    image = PILImage.new("RGB", (30, 20))
    with pytest.raises(ValueError, match="the map depth of a frame is missing"):
        squares({"image": image, "depth": None}, ["depth"])
    with pytest.raises(ValueError, match=r"the map depth of a frame .*another aspect ratio"):
        squares({"image": image, "depth": PILImage.new("I;16", (30, 24))}, ["depth"])


@pytest.mark.parametrize(("size", "corner"), [((30, 20), (5, 0)), ((20, 31), (0, 5)), ((20, 20), (0, 0))])
def test_the_square_is_around_the_centre(size, corner):
    image = PILImage.new("L", size)
    image.putpixel(corner, 9)
    square = middle_square(image)
    assert square.size == (20, 20)
    assert square.getpixel((0, 0)) == 9


def test_too_few_frames_and_files_of_another_run_are_refused(video, tmp_path):
    with pytest.raises(ValueError, match="99 frames are 9 blocks of 10; at least 10 blocks are needed"):
        parts(99)
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; choose another directory"):
        main([str(video), str(tmp_path)])
