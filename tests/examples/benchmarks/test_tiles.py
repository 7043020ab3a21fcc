"""Proves that the benchmark of tiles compares every predictor with the whole image, and measures it against the labels."""

import pytest
import torch

from examples.benchmarks.tiles import TileArguments, comparison_of, main
from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor, registered_tasks
from support.models import SHALLOW_SWIN
from support.tables import unpadded
from support.training_runs import DEPTH, depth_map, write_data


@pytest.mark.parametrize("camera", [{}, {"canonical_focal_length": 50.0}], ids=["no-camera", "canonical-camera"])
def test_the_command_prints_a_row_per_predictor(tmp_path, capsys, camera):
    torch.manual_seed(0)
    data = write_data(tmp_path / "maps", {"depth": depth_map}, [DEPTH], count=2, size=96)
    MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=SHALLOW_SWIN, tasks=["depth"])).save_pretrained(tmp_path / "net")
    MulTImageProcessor(size={"height": 64, "width": 64}, tasks=["depth"], **camera).save_pretrained(tmp_path / "net")
    flags = "--split validation --tiles 96 64 --own_tiles 64 --sizes 64".split()
    main(["--dataset", str(data), "--model", str(tmp_path / "net"), *flags])
    header, _, *rows = [line.strip("| ").split(" | ") for line in unpadded(capsys.readouterr().out).splitlines() if line.startswith("|")]
    assert header == ["input", "depth, difference (%)", "depth rmse", "depth abs_rel", "depth delta1"]
    names = [
        "whole image (no flag)",
        "`--tile 96`",
        "`--tile 64`",
        "whole image at 64",
        "`--image_size own`",
        "`--image_size own --tile 64`",
    ]
    assert [row[0] for row in rows] == names
    same = [row[1:] for row in rows if row[0] in ("whole image (no flag)", "`--tile 96`", "whole image at 64")]
    assert same[0] == same[1] == same[2], "a tile of the whole image, and the model's own size, change nothing"
    assert same[0][0] == "0.0"


@pytest.mark.parametrize(
    ("task", "one", "other", "expected"),
    [("segmentation", [[0, 1], [2, 2]], [[0, 1], [2, 0]], 75), ("depth", [[1.1, 2.0]], [[1.0, 2.0]], 5),
     ("normals", [[[1.0]], [[0.0]], [[0.0]]], [[[0.0]], [[1.0]], [[0.0]]], 90)],
)  # fmt: skip
def test_maps_are_compared_in_the_unit_of_the_heading(task, one, other, expected):
    _, compare = comparison_of(registered_tasks()[task])
    assert compare(torch.tensor(one), torch.tensor(other)) == pytest.approx(expected, rel=1e-5)


def test_other_tasks_are_not_compared():
    assert comparison_of(registered_tasks()["edges2d"]) is None


@pytest.mark.parametrize("flag", ["tiles", "own_tiles", "sizes"])
def test_sides_below_the_smallest_input_are_refused(flag):
    with pytest.raises(ValueError, match=r"have \[8\]; the model needs at least 32 pixels"):
        TileArguments(**{flag: [64, 8]})
