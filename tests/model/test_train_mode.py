"""Proves where and at which rates stochastic depth and dropout act in the decoders, and that half precision keeps small gradients."""

import pytest
import torch

from mult_hf import MulTForMultiTaskDensePrediction
from mult_hf.model.configuration_mult import BlockAttention
from mult_hf.model.decoder_mult import MulTDecoderBlock, RelativePositionBias

ROWS = 2000
# Standard error of a rate that is estimated from 2,000 rows is at most 0.5 / sqrt(2000) = 0.011; six of them never happen by chance.
TOLERANCE = 0.07


def away_from_initial_values(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3)
    return module


def equal_rows(channels, rows=ROWS):
    """A map of one window, (rows, 2, 2, channels), the same in every row, so that rows differ only by chance."""
    return torch.randn(1, 2, 2, channels, generator=torch.Generator().manual_seed(0)).expand(rows, -1, -1, -1)


def skipped_rows(block, channels):
    """Share of the rows that a block in training mode leaves unchanged, because both of its branches are dropped."""
    stream = equal_rows(channels)
    (result,) = block.train()({"depth": stream}, stream)[0].values()
    return torch.isclose(result, stream).flatten(1).all(dim=1).float().mean().item()


# --- stochastic depth ---


@pytest.mark.parametrize(("decoder_type", "blocks"), [("mult", 8), ("swin_unet", 6)])
def test_stochastic_depth_grows_linearly_from_0_to_its_rate(tiny_config, decoder_type, blocks):
    config = tiny_config(tasks=["depth"], decoder_type=decoder_type, decoder_window_size=2, drop_path_rate=0.9)
    model = away_from_initial_values(MulTForMultiTaskDensePrediction(config))
    found = [module for module in model.modules() if isinstance(module, MulTDecoderBlock)]
    assert len(found) == blocks
    # Both branches are dropped independently, so the share of untouched rows is the square of the rate.
    shares = [skipped_rows(block, next(block.parameters()).shape[-1]) for block in found]
    expected = (torch.linspace(0, 0.9, blocks) ** 2).tolist()
    assert shares == pytest.approx(expected, abs=TOLERANCE)
    assert shares[0] == 0


def test_stochastic_depth_draws_independently_for_every_image(tiny_config):
    """In one batch some images keep a branch and others lose it."""
    config = tiny_config(tasks=["depth"], decoder_window_size=2)
    block = away_from_initial_values(MulTDecoderBlock(config, 8, 2, BlockAttention("self", False), 0, 0.5, ["depth"]))
    for _ in range(3):  # drawn for the batch as a whole, it would be 0 or 1 each time
        assert skipped_rows(block, 8) == pytest.approx(0.25, abs=TOLERANCE)


def test_kept_branches_are_scaled_so_that_the_mean_is_unchanged(tiny_config):
    config = tiny_config(tasks=["depth"], decoder_window_size=2)
    block = away_from_initial_values(MulTDecoderBlock(config, 8, 2, BlockAttention("self", False), 0, 0.5, ["depth"]))
    with torch.no_grad():
        block.tasks["depth"].fc2.weight.zero_()
        block.tasks["depth"].fc2.bias.zero_()  # only the attention branch is left
    stream = equal_rows(8, rows=64)
    whole = block.eval()({"depth": stream}, stream)[0]["depth"] - stream
    drawn = block.train()({"depth": stream}, stream)[0]["depth"] - stream
    kept = drawn.flatten(1).abs().sum(dim=1) > 1e-6
    assert 0 < kept.sum() < 64
    torch.testing.assert_close(drawn[kept], 2 * whole[kept], rtol=1e-4, atol=1e-5)


# --- dropout ---


@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_hidden_dropout_acts_on_both_branches(tiny_config, branch):
    """With the other branch silent, half of the added numbers are zero, and the others are twice what they are in evaluation."""
    config = tiny_config(tasks=["depth"], decoder_window_size=2, hidden_dropout_prob=0.5)
    block = away_from_initial_values(MulTDecoderBlock(config, 8, 2, BlockAttention("self", False), 0, 0.0, ["depth"]))
    silent = block.tasks["depth"].fc2 if branch == "attention" else block.attention.tasks["depth"].o_proj
    with torch.no_grad():
        silent.weight.zero_()
        silent.bias.zero_()
    stream = equal_rows(8)
    whole = block.eval()({"depth": stream}, stream)[0]["depth"] - stream
    drawn = block.train()({"depth": stream}, stream)[0]["depth"] - stream
    dropped = drawn.abs() < 1e-6
    assert dropped.float().mean().item() == pytest.approx(0.5, abs=TOLERANCE)
    torch.testing.assert_close(drawn[~dropped], 2 * whole[~dropped], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_dropout_is_only_active_in_training(tiny_config, implementation):
    def predict(probability, *, training):
        torch.manual_seed(0)
        config = tiny_config(tasks=["depth"], attention_probs_dropout_prob=probability)
        config._attn_implementation = implementation
        model = away_from_initial_values(MulTForMultiTaskDensePrediction(config)).train(training)
        assert model.config._attn_implementation == implementation
        return model(torch.ones(1, 3, 64, 64)).predictions["depth"]

    with torch.no_grad():
        torch.testing.assert_close(predict(0.5, training=False), predict(0.0, training=False), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(predict(0.5, training=True), predict(0.0, training=True), rtol=1e-3, atol=1e-3)


# --- half precision ---


def map_of_biases(tiny_config, dtype):
    """A block whose result, less its stream, is its attention map; scores are the position biases alone.

    Returns:
        the position biases, and the map (tokens, tokens) of one window of 8 x 8.
    """
    config = tiny_config(tasks=["depth"], decoder_window_size=8)
    config._attn_implementation = "eager"
    block = MulTDecoderBlock(config, 64, 1, BlockAttention("self", False), 0, 0.0, ["depth"]).eval()
    attention, layers = block.attention.tasks["depth"], block.tasks["depth"]
    layers.layernorm_before = torch.nn.Identity()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, layers.fc2):
            linear.weight.zero_()
            linear.bias.zero_()
        for linear in (attention.v_proj, attention.o_proj):
            linear.weight.copy_(torch.eye(64))
        attention.position_bias.table.copy_(3 * torch.randn(15 * 15, 1, generator=generator))
    block.to(dtype)
    stream = torch.eye(64, dtype=dtype).view(1, 8, 8, 64)  # values of one token each, so that their mean is the map itself
    (result,) = block({"depth": stream}, stream)[0].values()
    return attention.position_bias, (result - stream).view(64, 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_pass_the_softmax_of_a_half_precision_model_in_full_precision(tiny_config, dtype):
    """A gradient is rounded once, at the end. Rounding the map first would lose the small differences that its gradient consists of."""
    position_bias, attention = map_of_biases(tiny_config, dtype)
    upstream = torch.randn(64, generator=torch.Generator().manual_seed(1)).to(dtype)
    scores = position_bias().detach().view(64, 64).double().requires_grad_()
    exact = scores.softmax(dim=-1)
    torch.testing.assert_close(attention.double(), exact, rtol=0, atol=torch.finfo(dtype).eps)  # premise: this is the map
    errors = []
    for token in range(64):  # one at a time: from one token every offset leads to another one, so that nothing is added up in the table
        position_bias.table.grad = scores.grad = None
        attention[token].backward(upstream, retain_graph=True)
        exact[token].backward(upstream.double(), retain_graph=True)
        offsets = [15 * (token // 8 - row + 7) + token % 8 - column + 7 for row in range(8) for column in range(8)]
        found, expected = position_bias.table.grad[offsets, 0].double(), scores.grad[token]
        large = expected.abs() > 1e-4  # float16 has fewer digits below
        errors.append(((found - expected).abs() / expected.abs())[large])
    errors = torch.cat(errors)
    assert len(errors) > 2000
    assert errors.max() <= torch.finfo(dtype).eps


# --- initial values ---


def test_position_biases_of_a_new_model_are_small_random_numbers(tiny_config):
    """Truncated normal numbers of the configured width, as in Swin; every block its own."""
    torch.manual_seed(0)
    model = MulTForMultiTaskDensePrediction(tiny_config(tasks=["depth"], initializer_range=0.5))
    biases = [module().detach().flatten() for module in model.modules() if isinstance(module, RelativePositionBias)]
    assert len(biases) == 8
    together = torch.cat(biases)
    assert together.std().item() == pytest.approx(0.5, rel=0.15)  # of about 1,500 independent numbers
    assert abs(together.mean().item()) < 0.1
    assert not torch.equal(biases[0], biases[1])
