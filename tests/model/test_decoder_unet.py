"""Proves that the decoder "swin_unet" computes the equations of its paper, and shares a map where MulT's blocks do."""

import pytest
import torch
import torch.nn.functional as F
from transformers import SwinConfig

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction
from mult_hf.model.configuration_mult import BlockAttention
from mult_hf.model.decoder_mult import MulTDecoderBlock, SharedWindowAttention
from mult_hf.model.decoder_unet import PatchExpanding, SkipConnection, SwinUnetDecoder
from support.batches import pixels

TASKS = ["segmentation", "depth", "normals"]


def test_patch_expanding_by_hand():
    """Each token becomes a square of four: the linear's channels 0 and 1 the top left one, 2 and 3 the top right, and so on."""
    expanding = PatchExpanding(1, 2, 1e-5)
    with torch.no_grad():
        # LayerNorm over two channels keeps which one is larger: (low, high) -> (-1, 1).
        expanding.expansion.weight.copy_(torch.tensor([[0.0], [1], [1], [0], [0], [2], [2], [0]]))
    expanded = expanding(torch.ones(1, 2, 1, 1), (4, 2))
    one_square = torch.tensor([[[-1.0, 1], [1, -1]], [[-1, 1], [1, -1]]])
    torch.testing.assert_close(expanded[0], one_square.repeat(2, 1, 1), atol=1e-4, rtol=0)


def test_a_skip_connection_by_hand():
    """Stream and encoder map are concatenated, the stream first, followed by a linear layer: here 10 x stream + 1 x encoder map + 0.5."""
    skip = SkipConnection(4, 2, 1e-5)
    with torch.no_grad():
        skip.fusion.weight.copy_(torch.cat([10 * torch.eye(2), torch.eye(2)], dim=1))
        skip.fusion.bias.fill_(0.5)
    stream, encoder_map = torch.randn(1, 2, 3, 4), torch.randn(1, 4, 6, 2)
    torch.testing.assert_close(skip(stream, encoder_map), 10 * skip.expanding(stream, (4, 6)) + encoder_map + 0.5)


def test_a_swin_unet_decoder_is_its_stages_written_out(tiny_config):
    """One task, an odd size: resized patch expanding, concatenation, a regular and a shifted block of plain window attention."""
    torch.manual_seed(0)
    config = tiny_config(tasks=["depth"], decoder_type="swin_unet", decoder_num_attention_heads=[4, 2])
    decoder = SwinUnetDecoder(config, [8, 12])
    fine, coarse = torch.randn(2, 8, 9, 7), torch.randn(2, 12, 5, 4)
    (stage,) = decoder.stages
    own = stage.tasks["depth"]
    grown = F.pixel_shuffle(_pixel_shuffle_order(own.expanding.expansion(coarse.permute(0, 2, 3, 1)), 8).permute(0, 3, 1, 2), 2)
    grown = own.expanding.norm(F.interpolate(grown, size=(9, 7), mode="bilinear").permute(0, 2, 3, 1))
    expected = own.fusion(torch.cat([grown, fine.permute(0, 2, 3, 1)], dim=-1))
    for shift, theirs in zip((0, 2), stage.blocks):
        block = MulTDecoderBlock(config, 8, 2, BlockAttention("self", skip=False), shift, 0.0, ["depth"])
        block.load_state_dict(theirs.state_dict())
        expected = block({"depth": expected}, expected)[0]["depth"]
    streams = decoder([fine, coarse], ["depth"]).streams["depth"]
    assert torch.equal(streams[0], coarse), "the bottleneck is the encoder's"
    torch.testing.assert_close(streams[1], expected.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def _pixel_shuffle_order(maps, channels):
    """Swin-Unet puts the position in the square before the channel, torch's pixel_shuffle the channel first."""
    return maps.unflatten(-1, (4, channels)).transpose(-1, -2).flatten(-2)


def test_swin_unet_tasks_share_only_the_encoder(tiny_model):
    decoder = tiny_model(tasks=TASKS, decoder_type="swin_unet").mult.decoder
    assert [name for name, _ in decoder.named_parameters() if ".tasks." not in name] == []
    attentions = [m for m in decoder.modules() if isinstance(m, SharedWindowAttention)]
    assert len(attentions) == 3 * 2, "two blocks at each of H/16, H/8 and H/4"
    assert not any(attention.kind.is_shared or attention.kind.skip for attention in attentions)


def test_swin_unet_with_mults_blocks_shares_the_maps_that_the_reference_task_computes_from_the_encoder(tiny_model):
    """As MulT does: the reference task's queries and keys change every task, those of another task do not exist."""
    model = tiny_model(tasks=TASKS, decoder_type="swin_unet", block_attention=["self", "encoder"])
    before = model(pixels()).predictions
    shared = [stage.blocks[1].attention.tasks for stage in model.mult.decoder.stages]
    assert {task for tasks in shared for task in tasks if hasattr(tasks[task], "q_proj")} == {"normals"}
    with torch.no_grad():
        for tasks in shared:
            tasks["normals"].q_proj.weight.mul_(-2).add_(0.1)
    after = model(pixels()).predictions
    assert not any(torch.allclose(before[task], after[task], rtol=1e-4, atol=1e-5) for task in TASKS)


def test_swin_unet_takes_one_list_of_blocks_per_stage_but_the_coarsest(tiny_model, tiny_config):
    model = tiny_model(decoder_type="swin_unet", block_attention=[["self"] * 2, ["self", "encoder"], ["encoder"] * 4], tasks=TASKS)
    assert [[b.attention.kind.source for b in stage.blocks] for stage in model.mult.decoder.stages] == [
        ["self"] * 2, ["self", "encoder"], ["encoder"] * 4
    ]  # fmt: skip
    with pytest.raises(ValueError, match="block_attention has 4 lists for 3 decoder stages"):
        tiny_model(decoder_type="swin_unet", block_attention=[["self", "self"]] * 4)


def test_a_changed_configuration_does_not_change_the_default(tiny_config):
    changed = tiny_config(decoder_type="swin_unet")
    changed.block_attention[1] = "encoder"
    assert tiny_config(decoder_type="swin_unet").block_attention == ["self", "self"]


def test_swin_unet_needs_a_map_to_concatenate():
    backbone = SwinConfig(embed_dim=8, depths=[1], num_heads=[2], window_size=4, out_features=["stage1"])
    with pytest.raises(
        ValueError, match="'swin_unet' decoder needs at least 2 encoder maps, and the encoder has 1; use an encoder with more"
    ):
        MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=backbone, tasks=["depth"], decoder_type="swin_unet"))


def test_a_wrong_number_of_heads_is_refused(tiny_model):
    with pytest.raises(ValueError, match="decoder_num_attention_heads has 3 numbers for 4 encoder maps; give one per map"):
        tiny_model(decoder_type="swin_unet", decoder_num_attention_heads=[4, 2, 2])


def test_the_plain_swin_unet_of_an_older_configuration_stays_plain(tiny_config):
    """Configurations of version 0.1 have no blocks and no reference task for this decoder."""
    old = tiny_config(decoder_type="swin_unet").to_dict() | {"block_attention": None, "reference_task": None}
    assert MulTConfig.from_dict(old).block_attention == ["self", "self"]
