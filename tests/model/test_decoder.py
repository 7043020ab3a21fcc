"""Proves that the decoders compute the paper's equations, by hand, against a slow reference and against transformers' Swin."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SwinConfig
from transformers.models.swin.modeling_swin import SwinLayer

from mult_hf import MulTConfig
from mult_hf.model.configuration_mult import BlockAttention
from mult_hf.model.decoder_mult import MulTDecoder, MulTDecoderBlock, RelativePositionBias, SharedWindowAttention, WindowGrid, decoder_heads


def randomize(module, scale=0.3):
    """Move every parameter away from its initial value, so that an unused one is detected."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, scale)
    return module.eval()


def identity_linear(layer, rows=None):
    with torch.no_grad():
        layer.weight.copy_(torch.eye(layer.out_features)[: layer.out_features, : layer.in_features])
        if layer.bias is not None:
            layer.bias.zero_()


# --- the idea, by hand ---


def test_shared_attention_of_one_two_by_two_window_by_hand(tiny_config):
    """One head of one channel, so that every number of the equations is one number.

    The encoder map gives queries q = (0, 0, ln 3, 0) and keys k = (0, 1, 0, 0) (projections set to q_proj = x_1, k_proj = x_2 by
    weights), no bias but one: B adds ln 2 wherever a token looks at its right neighbour.
    """
    config = tiny_config(tasks=["depth", "normals"], reference_task="normals", decoder_window_size=2)
    attention = SharedWindowAttention(config, channels=1, heads=1, kind=BlockAttention("encoder", False), tasks=["depth", "normals"])
    for task in ("depth", "normals"):
        identity_linear(attention.tasks[task].v_proj)
        identity_linear(attention.tasks[task].o_proj)
    reference = attention.tasks["normals"]
    with torch.no_grad():
        reference.q_proj.weight.fill_(math.log(3))
        reference.q_proj.bias.zero_()
        reference.k_proj.weight.fill_(1)
        reference.k_proj.bias.zero_()
        reference.position_bias.table.zero_()
        # Row of the table for (query row - key row, query column - key column) = (0, -1): a look to the right.
        reference.position_bias.table[1 * 3 + 0] = math.log(2)
        attention.tasks["depth"].o_proj.weight.fill_(10)
    encoder_map = torch.tensor([[[[0.0], [1.0], [0.0], [0.0]]]])  # only the top right token has anything to say
    streams = {"depth": torch.tensor([[[[1.0], [2.0], [3.0], [4.0]]]]), "normals": torch.tensor([[[[5.0], [6.0], [7.0], [8.0]]]])}

    mixed, maps = attention(streams, encoder_map, None)

    # Scores of token 1 (top right): q = ln 3 against keys (0, 1, 0, 0), and no right neighbour: (0, ln 3, 0, 0).
    # Tokens 0 and 2 see their right neighbour with ln 2; token 3 sees all alike.
    expected = torch.tensor(
        [
            [1 / 5, 2 / 5, 1 / 5, 1 / 5],
            [1 / 6, 3 / 6, 1 / 6, 1 / 6],
            [1 / 5, 1 / 5, 1 / 5, 2 / 5],
            [1 / 4, 1 / 4, 1 / 4, 1 / 4],
        ]
    )
    torch.testing.assert_close(maps["normals"][0, 0, 0], expected)
    # Token 0 of depth: 10 * (1 + 2 * 2 + 3 + 4) / 5; token 1 of normals: (5 + 3 * 6 + 7 + 8) / 6.
    assert mixed["depth"][0, 0, 0, 0].item() == pytest.approx(24)
    assert mixed["normals"][0, 0, 1, 0].item() == pytest.approx(38 / 6)


def test_one_map_is_used_by_every_task(tiny_config, monkeypatch):
    """The map of a shared block is computed once for any number of tasks; a block without sharing makes one per task."""
    tasks = ["segmentation", "depth", "normals", "edges2d"]
    config = tiny_config(tasks=tasks)
    calls, softmax = [], Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda scores, **kwargs: (calls.append(scores.shape), softmax(scores, **kwargs))[1])
    streams = {task: torch.randn(3, 1, 16, 8) for task in tasks}
    for source, expected in (("encoder", 1), ("reference", 1), ("self", 4)):
        calls.clear()
        attention = SharedWindowAttention(config, 8, 2, BlockAttention(source, False), tasks)
        attention(streams, torch.randn(3, 1, 16, 8), None)
        assert calls == [(3, 1, 2, 16, 16)] * expected, source


@pytest.mark.parametrize("source", ["encoder", "reference"])
def test_only_the_reference_task_has_queries_keys_and_bias_in_a_shared_block(tiny_config, source):
    attention = SharedWindowAttention(tiny_config(tasks=["depth", "normals"]), 8, 2, BlockAttention(source, False), ["depth", "normals"])
    assert {name.split(".")[0] for name, _ in attention.tasks["normals"].named_parameters()} == {
        "q_proj", "k_proj", "position_bias", "v_proj", "o_proj",
    }  # fmt: skip
    assert {name.split(".")[0] for name, _ in attention.tasks["depth"].named_parameters()} == {"v_proj", "o_proj"}


def test_an_encoder_block_does_not_read_the_reference_stream(tiny_config):
    config = tiny_config(tasks=["depth", "normals"])
    encoder_map, streams = torch.randn(2, 1, 16, 8), {task: torch.randn(2, 1, 16, 8) for task in ("depth", "normals")}
    changed = {**streams, "normals": torch.randn(2, 1, 16, 8)}
    for source, reads in (("encoder", False), ("reference", True)):
        attention = randomize(SharedWindowAttention(config, 8, 2, BlockAttention(source, False), ["depth", "normals"]))
        before, after = (attention(s, encoder_map, None)[0]["depth"] for s in (streams, changed))
        assert torch.allclose(before, after) is not reads, source


def test_skip_adds_the_encoder_map_to_the_values(tiny_config):
    """With the map's own influence on queries and keys held fixed ("reference"), only +skip lets x_sa change the result."""
    config = tiny_config(tasks=["depth", "normals"])
    streams = {task: torch.randn(2, 1, 16, 8) for task in ("depth", "normals")}
    for skip in (False, True):
        attention = randomize(SharedWindowAttention(config, 8, 2, BlockAttention("reference", skip), ["depth", "normals"]))
        before, after = (attention(streams, torch.randn(2, 1, 16, 8), None)[0]["depth"] for _ in range(2))
        assert torch.allclose(before, after) is not skip


# --- a slow reference without windows: all pairs of tokens ---


def slow_attention(attention, config, streams, encoder_map, shift):
    """The same equations over all pairs of tokens of the padded map, with minus infinity between windows.

    Coordinates alone determine which tokens share a window, independently of the code that partitions.
    """
    window, (batch, height, width, channels) = config.decoder_window_size, encoder_map.shape
    padded_height, padded_width = (-(-side // window) * window for side in (height, width))
    rows, columns = (axis.flatten() for axis in torch.meshgrid(torch.arange(padded_height), torch.arange(padded_width), indexing="ij"))
    # Position of a token after the roll; tokens that wrapped around do not attend to the others.
    place_row, place_column = (rows - shift) % padded_height, (columns - shift) % padded_width
    window_id = place_row // window * 1000 + place_column // window
    wrapped = (rows < shift).long() * 2 + (columns < shift).long()
    row_offset = place_row[:, None] - place_row[None, :] + window - 1
    column_offset = place_column[:, None] - place_column[None, :] + window - 1
    inside = window_id[:, None] == window_id[None, :]
    index = torch.where(inside, row_offset * (2 * window - 1) + column_offset, 0)

    def pad(maps):
        return F.pad(maps, (0, 0, 0, padded_width - width, 0, padded_height - height)).flatten(1, 2)

    def heads(tokens):
        return tokens.view(batch, -1, attention.heads, channels // attention.heads).transpose(1, 2)

    results = {}
    guide = pad(encoder_map)
    for task in streams:
        owner = config.reference_task if attention.kind.is_shared else task
        source = guide if attention.kind.source == "encoder" else pad(streams[owner])
        own = attention.tasks[owner]
        scores = heads(own.q_proj(source)) @ heads(own.k_proj(source)).transpose(-1, -2) / math.sqrt(channels // attention.heads)
        scores = scores + own.position_bias.table[index].permute(2, 0, 1)
        scores = scores + torch.where(wrapped[:, None] == wrapped[None, :], 0.0, -100.0)
        scores = scores.masked_fill(~inside, -torch.inf)
        value_input = torch.cat([pad(streams[task]), guide], -1) if attention.kind.skip else pad(streams[task])
        mixed = scores.softmax(-1) @ heads(attention.tasks[task].v_proj(value_input))
        mixed = attention.tasks[task].o_proj(mixed.transpose(1, 2).flatten(2))
        results[task] = mixed.view(batch, padded_height, padded_width, channels)[:, :height, :width]
    return results


@pytest.mark.parametrize("kind", ["self", "encoder", "reference", "self+skip", "encoder+skip", "reference+skip"])
@pytest.mark.parametrize(("size", "window"), [((8, 8), 4), ((5, 11), 4), ((7, 3), 7), ((9, 6), 3), ((2, 2), 5)])
def test_windowed_attention_equals_the_slow_reference(tiny_config, kind, size, window):
    torch.manual_seed(0)
    tasks = ["depth", "normals", "reshading"]
    config = tiny_config(tasks=tasks, decoder_window_size=window)
    for shift in (0, window // 2):
        attention = randomize(SharedWindowAttention(config, 8, 2, BlockAttention.parse(kind), tasks))
        encoder_map, streams = torch.randn(2, *size, 8), {task: torch.randn(2, *size, 8) for task in tasks}
        grid = WindowGrid(*size, window, shift)
        windows = {task: grid.partition(stream) for task, stream in streams.items()}
        mixed, _ = attention(windows, grid.partition(encoder_map), grid.shift_mask(encoder_map))
        expected = slow_attention(attention, config, streams, encoder_map, shift)
        for task in tasks:
            torch.testing.assert_close(grid.merge(mixed[task]), expected[task], rtol=1e-4, atol=1e-5)


def slow_decoder(decoder, config, feature_maps, tasks):
    """Every stage and block of the decoders, in the order of the paper."""
    maps = [m.permute(0, 2, 3, 1) for m in reversed(feature_maps)]
    streams = dict.fromkeys(tasks, maps[0])
    for number, (stage, encoder_map) in enumerate(zip(decoder.stages, maps)):
        for index, block in enumerate(stage.blocks):
            normed = {t: block.tasks[t].layernorm_before(x) for t, x in streams.items()}
            shift = config.decoder_window_size // 2 if index % 2 else 0
            mixed = slow_attention(block.attention, config, normed, encoder_map, shift)
            streams = {t: x + mixed[t] for t, x in streams.items()}
            for t, x in streams.items():
                own = block.tasks[t]
                streams[t] = x + own.fc2(F.gelu(own.fc1(own.layernorm_after(x))))
        if number + 1 < len(maps):
            for t, x in streams.items():
                up = F.interpolate(x.permute(0, 3, 1, 2), size=maps[number + 1].shape[1:3], mode="bilinear", align_corners=False)
                own = stage.tasks[t]
                streams[t] = own.reduction(own.norm(up.permute(0, 2, 3, 1)))
    return streams


@pytest.mark.parametrize(
    "block_attention",
    [["self", "encoder"], ["encoder", "reference"], ["encoder", "reference"] * 2, [["self", "self"], ["encoder+skip", "self"]]],
)
def test_whole_decoders_equal_the_slow_reference(tiny_config, block_attention):
    """Two stages of an odd size, other widths and heads than Swin's, stages of two and of four blocks."""
    torch.manual_seed(0)
    tasks = ["depth", "normals", "edges2d"]
    config = tiny_config(tasks=tasks, block_attention=block_attention, decoder_window_size=3, decoder_num_attention_heads=[3, 2])
    decoder = randomize(MulTDecoder(config, [10, 12]), 0.2)
    feature_maps = [torch.randn(2, 10, 9, 7), torch.randn(2, 12, 5, 4)]
    decoded = decoder(feature_maps, tasks)
    for task, expected in slow_decoder(decoder, config, feature_maps, tasks).items():
        torch.testing.assert_close(decoded.streams[task][-1].permute(0, 2, 3, 1), expected, rtol=1e-4, atol=1e-4)


# --- against transformers ---


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (6, 11)])
def test_a_self_block_is_transformers_swin_layer(tiny_config, shift, size):
    """With the same weights and no sharing, a decoder block equals transformers' SwinLayer for each task."""
    torch.manual_seed(0)
    tasks = ["depth", "normals"]
    config = tiny_config(tasks=tasks, block_attention=["self", "self"], decoder_window_size=4)
    block = randomize(MulTDecoderBlock(config, 16, 2, BlockAttention("self", False), shift, 0.0, tasks))
    streams = {task: torch.randn(2, *size, 16) for task in tasks}
    result, _ = block(streams, torch.randn(2, *size, 16))
    for task in tasks:
        layer = SwinLayer(SwinConfig(window_size=4), 16, size, 2, shift_size=shift).eval()
        layer.load_state_dict(swin_layer_state(block, task), strict=False)
        own = {name for name, _ in layer.named_parameters()}
        assert own == set(swin_layer_state(block, task)), "premise: every weight of the layer was copied"
        expected = layer(streams[task].flatten(1, 2), size, always_partition=True)[0]
        torch.testing.assert_close(result[task].flatten(1, 2), expected, rtol=1e-5, atol=1e-5)


def swin_layer_state(block, task):
    attention = block.attention.tasks[task].state_dict()
    layers = block.tasks[task].state_dict()
    state = {f"attention.{name}": value for name, value in attention.items() if "position_bias" not in name}
    state["attention.relative_position_bias.relative_position_bias_table"] = attention["position_bias.table"]
    return state | {f"mlp.{name}" if name.startswith("fc") else name: value for name, value in layers.items()}


# --- windows ---


@pytest.mark.parametrize(("height", "width", "window", "shift"), [(8, 8, 4, 0), (8, 8, 4, 2), (5, 11, 4, 2), (3, 4, 7, 3)])
def test_merging_windows_inverts_partitioning(height, width, window, shift):
    maps = torch.randn(2, height, width, 3)
    grid = WindowGrid(height, width, window, shift)
    windows = grid.partition(maps)
    assert windows.shape == (2, -(-height // window) * -(-width // window), window**2, 3)
    assert torch.equal(grid.merge(windows), maps)


def test_relative_position_bias_depends_only_on_the_offset():
    bias = randomize(RelativePositionBias(3, heads=2))()[0]
    # Token 0 to 4 and 4 to 8 are the same step of one down, one right; 4 to 0 is another.
    assert bias[0, 4] == bias[4, 8]
    assert bias[4, 0] != bias[0, 4]


# --- refusals ---


def test_heads_that_do_not_divide_the_channels_are_refused(tiny_config):
    with pytest.raises(ValueError, match="8 channels cannot be split over 3 heads"):
        MulTDecoder(tiny_config(decoder_num_attention_heads=[1, 1, 1, 3]), [8, 16, 32, 64])


def test_the_number_of_heads_divides_the_channels_even_if_32_does_not(tiny_config):
    config = MulTConfig(backbone_config={"model_type": "convnext"}, tasks=["depth"])
    assert decoder_heads(config, [40, 96, 100, 232]) == [1, 3, 2, 4]
    MulTDecoder(config, [40, 96, 100, 232])


def test_a_wrong_number_of_heads_or_block_lists_is_refused(tiny_config):
    with pytest.raises(ValueError, match="3 numbers for 4 encoder maps; give one per map"):
        MulTDecoder(tiny_config(decoder_num_attention_heads=[1, 1, 1]), [8, 16, 32, 64])
    with pytest.raises(ValueError, match="2 lists for 4 decoder stages"):
        MulTDecoder(tiny_config(block_attention=[["self", "self"]] * 2), [8, 16, 32, 64])


def test_a_task_named_like_a_torch_attribute_is_refused(tiny_config):
    entry = {"name": "keys", "kind": "regression", "channels": 1}
    with pytest.raises(ValueError, match="cannot be called 'keys'"):
        MulTDecoder(tiny_config(tasks=[entry]), [8, 16, 32, 64])
