"""Proves the modules that Rooms and Doom share: focal length, stored rows, and Parquet files with their settings."""

# ruff: noqa: E402 (what follows importorskip)

import io

import numpy as np
import pytest
from PIL import Image

datasets = pytest.importorskip("datasets")
pytest.importorskip("skimage")

from mult_hf.data.derive import EDGES_GAIN, edges2d, heat_map
from mult_hf.data.synthetic import rows, shards
from mult_hf.data.synthetic.camera import focal_length
from mult_hf.model.tasks import resolve_tasks

FEATURES = datasets.Features({"level": datasets.Value("string"), "depth": datasets.Image()})
SETTINGS = {"levels": ("E1M1", "MAP01"), "size": 64, "seed": 3}


def row(level: str = "E1M1") -> dict:
    return {"level": level, "depth": rows.map_cell(np.full((1, 4, 6), 1000, np.uint16))}


@pytest.mark.parametrize(("field_of_view", "focal"), [(90, 50), (2 * np.degrees(np.arctan(0.5)), 100), (2 * np.degrees(np.arctan(2)), 25)])
def test_the_slope_of_the_outermost_ray_is_half_the_width_over_the_focal_length(field_of_view, focal):
    assert focal_length(field_of_view, width=100) == pytest.approx(focal)


def test_an_image_is_stored_as_jpeg_and_its_maps_are_derived_from_the_decoded_jpeg():
    rgb = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    cell, decoded = rows.image_cell(rgb)
    with Image.open(io.BytesIO(cell["bytes"])) as image:
        assert image.format == "JPEG"
        np.testing.assert_array_equal(np.asarray(image), decoded)
    assert (decoded != rgb).any(), "compression changes noise"
    targets = rows.derived_targets(decoded, np.full((32, 48), 2.0), np.tile(np.array([0, 0, 1.0])[:, None, None], (1, 32, 48)), 40.0)
    np.testing.assert_array_equal(targets["edges2d"][0], heat_map(edges2d(decoded), EDGES_GAIN))
    assert {name: target.shape for name, target in targets.items()} == dict.fromkeys(("keypoints2d", "edges2d", "reshading"), (1, 32, 48))


def test_maps_are_stored_losslessly_and_decode_with_their_entries():
    vectors = {"name": "vectors", "kind": "regression", "channels": 3, "encoding": {"dtype": "uint8", "scale": 1 / 127.5, "offset": -1.0}}
    specs = resolve_tasks([{"name": "depth", "encoding": {"dtype": "uint16", "scale": 1 / 512, "unknown": [0]}}, vectors])
    random = np.random.default_rng(1)
    targets = {"depth": random.integers(1, 5000, (1, 8, 12)) / 512, "vectors": random.integers(0, 256, (3, 8, 12)) / 127.5 - 1}
    for name, cell in rows.map_cells(targets, specs).items():
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            assert image.format == "PNG"
            np.testing.assert_allclose(specs[name].decode(np.asarray(image)), targets[name], atol=1e-6)  # rounding of float32


def test_a_shard_reads_back_with_its_settings(tmp_path):
    path = tmp_path / "train.parquet"
    shards.write_shard(path, [row("E1M1"), row("MAP01")], FEATURES, SETTINGS)
    assert shards.shard_settings(path) == {"levels": ["E1M1", "MAP01"], "size": 64, "seed": 3}
    assert shards.count_rows(path) == 2
    loaded = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert loaded.features == FEATURES
    assert loaded["level"][:] == ["E1M1", "MAP01"]
    assert (np.asarray(loaded[1]["depth"]) == 1000).all()
    shards.check_existing_shards(tmp_path, SETTINGS)


def test_a_shard_whose_write_fails_leaves_no_file(tmp_path, monkeypatch):
    def crash(table, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(shards.pyarrow.parquet, "write_table", crash)
    with pytest.raises(OSError, match="disk full"):
        shards.write_shard(tmp_path / "train.parquet", [row()], FEATURES, SETTINGS)
    assert not list(tmp_path.iterdir())


def test_files_with_other_settings_or_from_other_programs_are_refused(tmp_path):
    shards.write_shard(tmp_path / "train.parquet", [row()], FEATURES, SETTINGS)
    with pytest.raises(ValueError, match=r"train.parquet was rendered with size 64 instead of 96, seed 3 instead of 4; use the file"):
        shards.check_existing_shards(tmp_path, {**SETTINGS, "size": 96, "seed": 4})
    datasets.Dataset.from_dict({"image": [1]}).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match=r"foreign.parquet was not written by this command"):
        shards.check_existing_shards(tmp_path, SETTINGS)


def test_a_broken_file_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "data/train.parquet"
    path.parent.mkdir()
    shards.write_shard(path, [row()], FEATURES, SETTINGS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"data/train.parquet is broken or no Parquet file \(.*\); choose an empty"):
        shards.check_existing_shards(tmp_path, SETTINGS)


@pytest.mark.parametrize(
    "text", ["my notes", "---\npretty_name: Rooms\n---\nThose of another command", "---\n{: no YAML\n---\n", "---\n1: x\n---\n", ""]
)
def test_a_readme_that_is_no_card_of_the_command_is_not_replaced(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ValueError, match=r"README.md is not the card of a data set of this command, and would be replaced"):
        shards.check_existing_card(tmp_path, "Doom")


def test_a_card_of_the_command_may_be_written_again(tmp_path):
    shards.check_existing_card(tmp_path, "Doom")
    (tmp_path / "README.md").write_text("---\npretty_name: Doom\n---\nA line of the user")
    shards.check_existing_card(tmp_path, "Doom")
