"""Proves that the page about the idea tells what the code does: its equations' lines, its figure, and the scripts behind its pictures."""

import inspect
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from examples.study import error_correlation
from examples.tools import draw_idea, see_attention
from mult_hf import MULT_TASKS, MulTImageProcessor
from mult_hf.model import decoder_mult

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/idea.md").read_text()
EQUATIONS = re.findall(r"^\| .+ \| `([\w.]+)` \| `(.+)` \|$", PAGE, re.MULTILINE)


def test_the_page_has_a_line_for_every_step_from_queries_to_the_next_stage():
    assert len(EQUATIONS) == 14
    assert {name.split(".")[0] for name, _ in EQUATIONS} == {
        "SharedWindowAttention",
        "RelativePositionBias",
        "eager_attention_forward",
        "BlockLayers",
        "Upsampling",
    }


@pytest.mark.parametrize(("name", "line"), EQUATIONS, ids=[f"{number} {name}" for number, (name, _) in enumerate(EQUATIONS)])
def test_every_equation_stands_in_the_code_where_the_page_says(name, line):
    place = decoder_mult
    for part in name.split("."):
        place = getattr(place, part)
    lines = [source.split("  # ")[0].strip() for source in inspect.getsource(place).splitlines()]
    assert lines.count(line) == 1


def test_the_figure_in_the_documentation_is_what_the_script_draws(tmp_path):
    draw_idea.main(["--output", str(tmp_path / "figure.svg")])
    assert (tmp_path / "figure.svg").read_bytes() == (ROOT / "docs/images/shared-attention.svg").read_bytes()


def words_of(figure):
    return ["".join(element.itertext()) for element in ElementTree.fromstring(figure).iter("{http://www.w3.org/2000/svg}text")]


def test_the_figure_has_a_column_a_task_and_one_map():
    for tasks in (list(MULT_TASKS), ["depth", "normals"]):
        words = words_of(draw_idea.draw(tasks, "depth"))
        assert [word for word in words if word in tasks] == tasks
        assert words.count("vt = linear") == words.count("Wt") == words.count("Ar vt") == len(tasks)
        assert sum("softmax" in word for word in words) == 1
        assert "reference task r: depth" in words


def test_letters_of_tasks_names_do_not_break_the_figure():
    assert "a<b & c" in words_of(draw_idea.draw(["a<b & c"], "a<b & c"))


def test_a_reference_task_without_a_column_is_refused():
    with pytest.raises(ValueError, match=r"--reference_task is 'depth'; choose one of the tasks \['normals'\]"):
        draw_idea.main(["--tasks", "normals", "--reference_task", "depth"])


@pytest.fixture
def save_model(tiny_model, tmp_path):
    """Save a very small model that sees photos at 40 x 52 pixels."""

    def save(name, tasks, **kwargs):
        tiny_model(tasks=tasks, **kwargs).save_pretrained(tmp_path / name)
        MulTImageProcessor(size={"height": 40, "width": 52}, tasks=tasks).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 104, 3), np.uint8)).save(path)
    return path


def test_the_panel_has_a_row_a_model_and_a_column_a_stage(save_model, photo, tmp_path, capsys):
    tasks = ["depth", "normals"]
    models = [save_model(task, tasks, reference_task=task) for task in tasks]
    words = ["--image", str(photo), "--pixel", "79", "103", "--stages", "2", "4", "--cell", "100", "--output", str(tmp_path / "a.png")]
    see_attention.main(["--model", models[0], "--compare", models[1], *words])
    printed = capsys.readouterr().out
    lines = re.findall(r"^  stage (\d) \(1/(\d+)\): largest weight 0\.\d+, on padding 0\.\d+$", printed, re.MULTILINE)
    assert lines == [("2", "16"), ("4", "4")] * 2
    for model, task in zip(models, tasks):
        assert f"{model}: made by {task}, the same for depth, normals\n" in printed
    panel = Image.open(tmp_path / "a.png")
    assert panel.size == (3 * 104 + 4, 20 + 2 * (18 + round(100 * 80 / 104) + 4) + 4)
    first, second = (np.asarray(panel.crop((104, 20 + 99 * row + 22, 316, 20 + 99 * (row + 1)))) for row in range(2))
    assert (first != second).any(), "another reference task looks elsewhere"


def test_without_a_pixel_the_middle_is_shown_in_all_stages(save_model, photo, tmp_path, capsys):
    see_attention.main(["--model", save_model("m", ["depth"]), "--image", str(photo), "--output", str(tmp_path / "a.png")])
    assert re.findall(r"stage (\d)", capsys.readouterr().out) == ["1", "2", "3", "4"]


def test_a_stage_that_only_one_of_the_models_shares_is_left_empty_for_the_other(save_model, photo, tmp_path):
    alone, shared = ["self", "self"], ["self", "encoder"]
    models = [save_model(str(n), ["depth"], block_attention=[alone] * n + [shared] * (4 - n)) for n in (2, 3)]
    words = ["--image", str(photo), "--cell", "100", "--output", str(tmp_path / "a.png")]
    see_attention.main(["--model", models[0], "--compare", models[1], *words])
    panel = np.asarray(Image.open(tmp_path / "a.png"))
    cells = [panel[20 + 4 + row * 99 + 30, 104 * column + 50] for row, column in ((0, 1), (1, 1), (1, 2))]
    assert [(cell == 255).all() for cell in cells] == [False, True, False]


@pytest.mark.parametrize("flags", [["--block", "1"], ["--head", "7"]])
def test_another_block_or_one_head_is_another_picture(save_model, photo, tmp_path, flags):
    model = save_model("m", ["depth"], block_attention=["encoder", "encoder"])
    for number, more in enumerate(([], flags)):
        words = ["--model", model, "--image", str(photo), "--stages", "1", "--output", str(tmp_path / f"{number}.png")]
        see_attention.main([*words, *more])
    assert Image.open(tmp_path / "0.png").tobytes() != Image.open(tmp_path / "1.png").tobytes()


@pytest.mark.parametrize(
    ("pixel", "message"), [(["80", "0"], r"--pixel is \[80, 0\]; .* has 80 rows and 104 columns"), (["3"], r"--pixel is \[3\]; give a row")]
)
def test_a_pixel_that_is_not_in_the_photo_is_refused(photo, pixel, message):
    with pytest.raises(ValueError, match=message):
        see_attention.main(["--model", "anything", "--image", str(photo), "--pixel", *pixel])


def test_a_model_without_sharing_has_nothing_to_show(save_model, photo):
    model = save_model("m", ["depth"], block_attention=["self", "self"])
    with pytest.raises(ValueError, match="this model shares no attention"):
        see_attention.main(["--model", model, "--image", str(photo)])


def test_errors_are_correlated_over_all_views_or_some_whatever_the_batch(save_model, data, tmp_path, capsys):
    entry = {"name": "principal_curvature", "kind": "regression", "channels": 2, "unit": "1/m"}
    words = ["--model", save_model("m", ["depth", entry]), "--dataset", str(data), "--split", "validation"]
    reports = []
    for number, flags in enumerate(([], ["--batch_size", "3"], ["--max_samples", "2"])):
        error_correlation.main([*words, *flags, "--output_dir", str(tmp_path / str(number))])
        reports.append(json.loads((tmp_path / str(number) / "correlation.json").read_text()))
        assert Image.open(tmp_path / str(number) / "correlation.png").width > 100
    everything, in_threes, some = reports
    assert "| principal_curvature |" in capsys.readouterr().out
    assert everything["tasks"] == ["depth", "principal_curvature"]
    assert everything["correlation"][0][0] == pytest.approx(1)
    assert 0 < abs(everything["correlation"][0][1]) < 1
    assert everything["correlation"][0][1] == pytest.approx(everything["correlation"][1][0])
    np.testing.assert_allclose(everything["correlation"], in_threes["correlation"], atol=1e-5)
    assert (everything["samples"], some["samples"]) == (4, 2)
    assert everything["pixels"][1][1] == 4 * 64 * 64
    assert some["pixels"][1][1] == 2 * 64 * 64


@pytest.mark.parametrize("name", ["batch_size", "max_samples"])
def test_no_rows_are_refused(name):
    with pytest.raises(ValueError, match=f"--{name} is 0; it must be at least 1"):
        error_correlation.main(["--model", "anything", f"--{name}", "0"])
