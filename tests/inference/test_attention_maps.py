"""Proves that a pixel's attention is mapped to the right place in the image: regular, shifted and padded windows, odd map sizes."""

import math

import pytest
import torch

from mult_hf.inference.attention_maps import attention_of_pixel, attention_of_token, shared_blocks
from mult_hf.model.decoder_mult import WindowGrid

WINDOW = 4


def brute_force(attention, height, width, window, shift, token):
    """The token's row, computed number by number from the positions of its window's tokens, without reshaping a tensor."""
    padded_height, padded_width = math.ceil(height / window) * window, math.ceil(width / window) * window
    row, column = (token[0] - shift) % padded_height, (token[1] - shift) % padded_width
    number = row // window * (padded_width // window) + column // window
    query = row % window * window + column % window
    laid = torch.zeros(attention.shape[1], height, width)
    for key in range(window * window):
        key_row = (row // window * window + key // window + shift) % padded_height
        key_column = (column // window * window + key % window + shift) % padded_width
        if key_row < height and key_column < width:
            laid[:, key_row, key_column] = attention[number, :, query, key]
    return laid


def random_attention(grid, heads=2):
    windows = grid.padded[0] * grid.padded[1] // grid.window_size**2
    scores = torch.randn(windows, heads, grid.window_size**2, grid.window_size**2, generator=torch.Generator().manual_seed(0))
    return scores.softmax(dim=-1)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 12), (4, 4), (5, 11), (3, 2)])
def test_attention_of_every_token_matches_a_count_by_hand(size, shift):
    grid = WindowGrid(*size, WINDOW, shift)
    attention = random_attention(grid)
    for token in [(row, column) for row in range(size[0]) for column in range(size[1])]:
        torch.testing.assert_close(attention_of_token(attention, grid, token), brute_force(attention, *size, WINDOW, shift, token))


def test_attention_to_the_right_neighbour_crosses_the_border_of_regular_windows():
    grid = WindowGrid(4, 8, WINDOW, shift=2)
    right = torch.zeros(2, 1, 16, 16)  # in each row of a window the next token; the last looks at itself
    for query in range(16):
        right[:, 0, query, query if query % 4 == 3 else query + 1] = 1
    (laid,) = attention_of_token(right, grid, (1, 3))  # the last of a regular window, the second of a shifted one
    assert laid.nonzero().tolist() == [[1, 4]]


def test_weights_sum_to_one_minus_the_attention_to_padding():
    whole, cut = WindowGrid(4, 4, WINDOW, 0), WindowGrid(3, 4, WINDOW, 0)
    even = torch.full((1, 1, 16, 16), 1 / 16)
    assert attention_of_token(even, whole, (0, 0)).sum().item() == 1
    assert attention_of_token(even, cut, (0, 0)).sum().item() == 12 / 16, "one row of four is padding"


@pytest.fixture
def seen(tiny_model):
    """Make a model and its outputs for random images of 72 x 100 pixels: maps of 18 x 25, 9 x 13, 5 x 7 and 3 x 4 tokens."""

    def make(size=(72, 100), asked=True, **kwargs):
        model = tiny_model(tasks=["depth", "normals"], **kwargs)
        pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            return model, model(pixels, output_attentions=asked, output_hidden_states=asked)

    return make


@pytest.mark.parametrize(("stage", "stride", "tokens"), [(1, 32, (3, 4)), (2, 16, (5, 7)), (3, 8, (9, 13)), (4, 4, (18, 25))])
def test_a_pixel_has_the_attention_of_its_token_in_its_image_and_stage(seen, stage, stride, tokens):
    model, outputs = seen()
    looked = attention_of_pixel(model, outputs, (70, 37), stage, image=1)
    assert (looked.stride, tuple(looked.weights.shape), looked.token) == (stride, tokens, (70 // stride, 37 // stride))
    expected = brute_force(outputs.attentions[stage - 1][1], *tokens, WINDOW, 2, looked.token)
    torch.testing.assert_close(looked.weights, expected.mean(dim=0))
    of_head = attention_of_pixel(model, outputs, (70, 37), stage, image=1, head=0)
    torch.testing.assert_close(of_head.weights, expected[0])


def test_over_pixels_every_pixel_has_the_weight_of_its_token(seen):
    model, outputs = seen(size=(71, 97))
    looked = attention_of_pixel(model, outputs, (0, 96), stage=3)
    over = looked.over_pixels()
    assert tuple(over.shape) == (71, 97)
    for row, column in [(0, 0), (7, 96), (8, 95), (70, 40)]:
        assert over[row, column] == looked.weights[row // 8, column // 8]


def test_blocks_of_a_stage_are_distinguished(seen):
    model, outputs = seen(block_attention=["encoder", "encoder"])
    assert [len(blocks) for blocks in shared_blocks(model).values()] == [2, 2, 2, 2]
    for block, shift in enumerate((0, 2)):
        looked = attention_of_pixel(model, outputs, (40, 40), stage=3, block=block)
        attention = outputs.attentions[2 * 2 + block][0]
        torch.testing.assert_close(looked.weights, brute_force(attention, 9, 13, WINDOW, shift, (5, 5)).mean(dim=0))


def test_stages_without_a_shared_block_do_not_shift_the_numbers_of_the_others(seen):
    model, outputs = seen(block_attention=[["self", "self"], ["self", "encoder"], ["self", "self"], ["encoder", "self"]])
    assert list(shared_blocks(model)) == [2, 4]
    looked = attention_of_pixel(model, outputs, (40, 40), stage=4)
    torch.testing.assert_close(looked.weights, brute_force(outputs.attentions[1][0], 18, 25, WINDOW, 0, (10, 10)).mean(dim=0))
    with pytest.raises(ValueError, match=r"stage is 3; stages with a shared block, starting with the coarsest, are \[2, 4\]"):
        attention_of_pixel(model, outputs, (40, 40), stage=3)


def test_stages_of_a_decoder_without_the_coarsest_have_the_numbers_of_their_maps(seen):
    model, outputs = seen(decoder_type="swin_unet", block_attention=["self", "encoder"])
    assert list(shared_blocks(model)) == [2, 3, 4]
    looked = attention_of_pixel(model, outputs, (40, 40), stage=3)
    torch.testing.assert_close(looked.weights, brute_force(outputs.attentions[1][0], 9, 13, WINDOW, 2, (5, 5)).mean(dim=0))


@pytest.mark.parametrize(("task", "changes"), [("depth", False), ("normals", True)])
def test_only_the_reference_task_determines_the_attention_of_all_tasks(tiny_model, task, changes):
    model = tiny_model(tasks=["depth", "normals"])
    assert model.config.reference_task == "normals"
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def look():
        with torch.no_grad():
            outputs = model(pixels, output_attentions=True, output_hidden_states=True)
        return attention_of_pixel(model, outputs, (30, 30), stage=4).weights

    before = look()
    with torch.no_grad():
        for _, parameter in model.task_parameters(task):
            parameter.mul_(-1.5)
    assert torch.equal(before, look()) != changes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixel": (72, 0)}, r"pixel is \(72, 0\), but the model's input has 72 rows and 100 columns"),
        ({"pixel": (0, -1)}, r"pixel is \(0, -1\)"),
        ({"stage": 0}, r"stage is 0; stages with a shared block, starting with the coarsest, are \[1, 2, 3, 4\]"),
        ({"block": 1}, "block is 1, but stage 4 has 1 shared"),
        ({"image": 2}, "image is 2, but the batch has 2"),
        ({"head": 1}, "head is 1, but stage 4 has 1 heads, counted from 0"),
    ],
)
def test_missing_pixels_stages_blocks_heads_and_images_are_refused(seen, arguments, message):
    with pytest.raises(ValueError, match=message):
        attention_of_pixel(*seen(), **{"pixel": (0, 0), "stage": 4, **arguments})


def test_outputs_without_maps_are_refused_with_the_flags_to_set(seen):
    with pytest.raises(ValueError, match="output_attentions=True, output_hidden_states=True"):
        attention_of_pixel(*seen(asked=False), (0, 0), stage=4)


@pytest.mark.parametrize("kwargs", [{"block_attention": ["self", "self"]}, {"decoder_type": "swin_unet"}, {"decoder_type": "mtan"}])
def test_a_model_that_shares_nothing_is_refused_with_the_reason(seen, kwargs):
    with pytest.raises(ValueError, match=r"this model shares no attention .*use one with an 'encoder' or 'reference' block"):
        attention_of_pixel(*seen(**kwargs), (0, 0), stage=4)


def test_an_encoder_whose_maps_do_not_halve_is_refused(seen):
    model, outputs = seen()
    outputs.hidden_states = tuple(maps[..., :-2] for maps in outputs.hidden_states)
    with pytest.raises(ValueError, match="an encoder map has 18 x 23 tokens for 72 x 100 pixels; expected tokens of 4 x 4"):
        attention_of_pixel(model, outputs, (0, 0), stage=4)
