"""Proves that shared attention works as described on the page about the idea, and that the page's links, figure and scripts work."""

import json
import pydoc
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from examples.study import error_correlation
from examples.tools import draw_idea, see_attention
from mult_hf import MULT_TASKS, MulTImageProcessor
from mult_hf.model.configuration_mult import BlockAttention
from mult_hf.model.decoder_mult import SharedWindowAttention

ROOT = Path(__file__).resolve().parents[2]
TASKS = ["segmentation", "depth", "normals"]


@pytest.fixture
def block(tiny_config):
    """Make one block's attention over three tasks, reference normals, with random weights; and random streams and encoder map."""

    def make(kind):
        torch.manual_seed(0)
        attention = SharedWindowAttention(tiny_config(tasks=TASKS), 8, 2, BlockAttention.parse(kind), TASKS).eval()
        for parameter in attention.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        return attention, {task: torch.randn(2, 3, 16, 8) for task in TASKS}, torch.randn(2, 3, 16, 8)

    return make


def changed_tasks(attention, streams, encoder_map, change):
    """Names of the tasks whose result changes if some parameters change."""
    with torch.no_grad():
        before, _ = attention(streams, encoder_map, None)
        for parameter in change:
            parameter.add_(torch.randn_like(parameter))
        after, _ = attention(streams, encoder_map, None)
    return [task for task in TASKS if not torch.allclose(before[task], after[task])]


@pytest.mark.parametrize("kind", ["encoder", "reference", "encoder+skip"])
@pytest.mark.parametrize("name", ["q_proj", "k_proj", "position_bias"])
def test_queries_keys_and_bias_of_the_reference_task_change_every_task(block, kind, name):
    attention, streams, encoder_map = block(kind)
    projection = getattr(attention.tasks["normals"], name)
    assert changed_tasks(attention, streams, encoder_map, projection.parameters()) == TASKS


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "position_bias"])
def test_in_a_self_block_they_change_only_their_own_task(block, name):
    attention, streams, encoder_map = block("self")
    projection = getattr(attention.tasks["normals"], name)
    assert changed_tasks(attention, streams, encoder_map, projection.parameters()) == ["normals"]


@pytest.mark.parametrize("kind", ["encoder", "reference", "self", "encoder+skip"])
@pytest.mark.parametrize("name", ["v_proj", "o_proj"])
@pytest.mark.parametrize("task", ["depth", "normals"])
def test_values_and_output_projections_change_only_their_own_task(block, kind, name, task):
    attention, streams, encoder_map = block(kind)
    assert changed_tasks(attention, streams, encoder_map, getattr(attention.tasks[task], name).parameters()) == [task]


@pytest.mark.parametrize("kind", ["encoder", "reference", "encoder+skip"])
def test_one_map_mixes_the_values_of_every_task(block, kind):
    """The result of each task follows from the one returned map and that task's own layers, in loops and by the equations."""
    attention, streams, encoder_map = block(kind)
    mixed, maps = attention(streams, encoder_map, None)
    assert list(maps) == ["normals"]
    (shared,) = maps.values()
    torch.testing.assert_close(shared.sum(dim=-1), torch.ones(2, 3, 2, 16))
    for task, stream in streams.items():
        own = attention.tasks[task]
        values = own.v_proj(torch.cat([stream, encoder_map], dim=-1) if attention.kind.skip else stream)
        heads = [shared[:, :, head] @ values[..., 4 * head : 4 * (head + 1)] for head in range(2)]  # 8 channels in 2 heads
        torch.testing.assert_close(mixed[task], own.o_proj(torch.cat(heads, dim=-1)))


@pytest.mark.parametrize("kind", ["encoder", "reference", "self"])
def test_without_queries_and_bias_every_token_gets_the_mean_of_its_window(block, kind):
    attention, streams, encoder_map = block(kind)
    with torch.no_grad():
        for task in TASKS if kind == "self" else ["normals"]:
            for parameter in [*attention.tasks[task].q_proj.parameters(), attention.tasks[task].position_bias.table]:
                parameter.zero_()
    mixed, maps = attention(streams, encoder_map, None)
    for shared in maps.values():
        torch.testing.assert_close(shared, torch.full((2, 3, 2, 16, 16), 1 / 16))
    for task, stream in streams.items():
        own = attention.tasks[task]
        mean = own.o_proj(own.v_proj(stream).mean(dim=2, keepdim=True)).expand_as(mixed[task])
        torch.testing.assert_close(mixed[task], mean)


def test_scores_are_divided_by_the_root_of_the_channels_of_a_head(block):
    """Two tokens with the scores 2 and 0 before the division: the softmax of (2 / sqrt(4), 0)."""
    attention, _, _ = block("encoder")
    query, key = torch.ones(1, 1, 4), torch.tensor([[[0.5] * 4, [0.0] * 4]])
    weight = attention.attention_map(query, key, torch.zeros(1, 1, 2))[0, 0, 0].item()
    assert weight == pytest.approx(np.e / (np.e + 1), abs=1e-6)


def test_every_function_that_the_page_links_to_exists_and_is_in_the_reference():
    page, reference = ((ROOT / "docs" / name).read_text() for name in ("idea.md", "api/model.md"))
    linked = re.findall(r"\[`([\w.]+)`\]\(api/model\.md#(mult_hf\.[\w.]+)\)", page)
    assert len(linked) == 9
    members = re.search(r"::: mult_hf\.model\.decoder_mult\n    options:\n      members: \[(.+)\]", reference)[1].split(", ")
    for text, target in linked:
        assert target.endswith(f".{text}")
        assert callable(pydoc.locate(target)), target
        assert text.split(".")[0] in members


def test_the_figure_in_the_documentation_is_what_the_script_draws(tmp_path):
    draw_idea.main(["--output", str(tmp_path / "figure.svg")])
    assert (tmp_path / "figure.svg").read_bytes() == (ROOT / "docs/images/shared-attention.svg").read_bytes()


def words_of(figure):
    return ["".join(element.itertext()) for element in ElementTree.fromstring(figure).iter("{http://www.w3.org/2000/svg}text")]


def test_the_figure_has_a_column_per_task_and_one_map():
    for tasks in (list(MULT_TASKS), ["depth", "normals"]):
        words = words_of(draw_idea.draw(tasks, "depth"))
        assert [word for word in words if word in tasks] == tasks
        assert words.count("vt = linear") == words.count("Wt") == words.count("Ar vt") == len(tasks)
        assert sum("softmax" in word for word in words) == 1
        assert "reference task r: depth" in words


def test_special_characters_in_task_names_do_not_break_the_figure():
    assert "a<b & c" in words_of(draw_idea.draw(["a<b & c"], "a<b & c"))


def test_a_reference_task_without_a_column_is_refused():
    with pytest.raises(ValueError, match=r"--reference_task is 'depth'; choose one of the tasks \['normals'\]"):
        draw_idea.main(["--tasks", "normals", "--reference_task", "depth"])


@pytest.fixture
def save_model(tiny_model, tmp_path):
    """Save a very small model for images of 40 x 52 pixels."""

    def save(name, tasks, **kwargs):
        tiny_model(tasks=tasks, **kwargs).save_pretrained(tmp_path / name)
        MulTImageProcessor(size={"height": 40, "width": 52}, tasks=tasks).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 104, 3), np.uint8)).save(path)
    return path


def test_the_panel_has_a_row_per_model_and_a_column_per_stage(save_model, image, tmp_path, capsys):
    tasks = ["depth", "normals"]
    models = [save_model(task, tasks, reference_task=task) for task in tasks]
    words = ["--image", str(image), "--pixel", "79", "103", "--stages", "2", "4", "--cell", "100", "--output", str(tmp_path / "a.png")]
    see_attention.main(["--model", models[0], "--compare", models[1], *words])
    printed = capsys.readouterr().out
    lines = re.findall(r"^  stage (\d) \(1/(\d+)\): largest weight 0\.\d+, on padding 0\.\d+$", printed, re.MULTILINE)
    assert lines == [("2", "16"), ("4", "4")] * 2
    for model, task in zip(models, tasks):
        assert f"{model}: computed by {task}, shared by depth, normals\n" in printed
    panel = Image.open(tmp_path / "a.png")
    assert panel.size == (3 * 104 + 4, 20 + 2 * (18 + round(100 * 80 / 104) + 4) + 4)
    first, second = (np.asarray(panel.crop((104, 20 + 99 * row + 22, 316, 20 + 99 * (row + 1)))) for row in range(2))
    assert (first != second).any(), "another reference task looks elsewhere"


def test_without_a_pixel_the_middle_is_shown_in_all_stages(save_model, image, tmp_path, capsys):
    see_attention.main(["--model", save_model("m", ["depth"]), "--image", str(image), "--output", str(tmp_path / "a.png")])
    assert re.findall(r"stage (\d)", capsys.readouterr().out) == ["1", "2", "3", "4"]


def test_a_stage_without_a_shared_block_is_left_empty(save_model, image, tmp_path):
    alone, shared = ["self", "self"], ["self", "encoder"]
    models = [save_model(str(n), ["depth"], block_attention=[alone] * n + [shared] * (4 - n)) for n in (2, 3)]
    words = ["--image", str(image), "--cell", "100", "--output", str(tmp_path / "a.png")]
    see_attention.main(["--model", models[0], "--compare", models[1], *words])
    panel = np.asarray(Image.open(tmp_path / "a.png"))
    cells = [panel[20 + 4 + row * 99 + 30, 104 * column + 50] for row, column in ((0, 1), (1, 1), (1, 2))]
    assert [(cell == 255).all() for cell in cells] == [False, True, False]


@pytest.mark.parametrize("flags", [["--block", "1"], ["--head", "7"]])
def test_another_block_or_head_gives_another_image(save_model, image, tmp_path, flags):
    model = save_model("m", ["depth"], block_attention=["encoder", "encoder"])
    for number, more in enumerate(([], flags)):
        words = ["--model", model, "--image", str(image), "--stages", "1", "--output", str(tmp_path / f"{number}.png")]
        see_attention.main([*words, *more])
    assert Image.open(tmp_path / "0.png").tobytes() != Image.open(tmp_path / "1.png").tobytes()


@pytest.mark.parametrize(
    ("pixel", "message"), [(["80", "0"], r"--pixel is \[80, 0\]; .* has 80 rows and 104 columns"), (["3"], r"--pixel is \[3\]; give a row")]
)
def test_a_pixel_that_is_not_in_the_image_is_refused(image, pixel, message):
    with pytest.raises(ValueError, match=message):
        see_attention.main(["--model", "anything", "--image", str(image), "--pixel", *pixel])


def test_a_model_without_sharing_has_nothing_to_show(save_model, image):
    model = save_model("m", ["depth"], block_attention=["self", "self"])
    with pytest.raises(ValueError, match="this model shares no attention"):
        see_attention.main(["--model", model, "--image", str(image)])


def test_the_correlation_of_errors_does_not_depend_on_the_batch_size(save_model, data, tmp_path, capsys):
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
