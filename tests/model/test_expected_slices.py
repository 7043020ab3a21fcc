"""Proves that the shipped checkpoint predicts the same numbers as when it was published, in every task, after head and resize.

This detects changes of the arithmetic anywhere between pixels and predictions. The numbers are those of the model in float64; after a
deliberate change (another checkpoint) print new ones with `PYTHONPATH=. python tests/model/test_expected_slices.py`.
"""

import pytest
import torch

from mult_hf import ROOMS_TINY_CHECKPOINT, MulTForMultiTaskDensePrediction

# As a share of the largest number of a task. float32 differed from float64 by at most 3e-5, with AVX2 and without vector instructions,
# which leaves a factor of 30 for another CPU's order of sums.
TOLERANCE = 1e-3

# fmt: off
EXPECTED = {
    (128, 128): {
        "segmentation": [
            7.9716, 7.4055, 5.2579, 5.2285, 4.281, 5.0114, -0.49443, -1.0427, 0.65334,
            -7.2615, -6.4997, -3.771, -7.3574, -7.2863, -6.1291, -4.8319, -6.0187, -4.0937,
        ],
        "depth": [
            2.5818, 2.6395, 1.9071, 2.2524, 2.9242, 2.0363, 1.1627, 1.234, 1.1517,
        ],
        "normals": [
            0.44032, -0.059401, -0.45397, 0.63041, 0.033177, -0.17317, 0.0016389, 0.00063942, -0.50492,
            0.88134, 0.97885, 0.88384, 0.773, 0.99298, 0.98154, 0.22849, 0.2236, 0.67892,
        ],
        "keypoints2d": [
            0.0052804, 0.0045552, 0.0030713, 0.0095288, 0.008127, 0.0073106, 0.0024874, 0.0016395, 0.0022572,
        ],
        "edges2d": [
            0.0037142, 0.010859, 0.0055571, 0.0047777, 0.0080224, 0.0071202, 0.0038451, 0.0027219, 0.0033399,
        ],
        "reshading": [
            0.49681, 0.47379, 0.64643, 0.46003, 0.45016, 0.60967, 0.73784, 0.79481, 0.76285,
        ],
    },
    (97, 131): {
        "segmentation": [
            8.0857, 7.2203, 4.8028, 6.8358, 6.892, 4.6102, 0.81254, 1.0196, 1.7607,
            -7.243, -5.7954, -3.9092, -5.948, -6.5231, -3.9632, -2.7383, -2.9208, -0.83587,
        ],
        "depth": [
            1.5, 2.3342, 1.4909, 2.8179, 2.7932, 1.3202, 2.0896, 2.5023, 1.6364,
        ],
        "normals": [
            -0.0092046, -0.056853, -0.60346, 0.29349, 0.04372, -0.68307, 0.22478, -0.019328, -0.39801,
            -0.071588, 0.96529, 0.7937, 0.94844, 0.67228, 0.72922, 0.62891, 0.98818, 0.91735,
        ],
        "keypoints2d": [
            0.0025634, 0.0026698, 0.0095913, 0.013879, 0.0098926, 0.0077149, 0.010007, 0.011106, 0.011946,
        ],
        "edges2d": [
            0.0048129, 0.0068952, 0.05294, 0.0072802, 0.0094522, 0.041734, 0.024459, 0.025891, 0.063184,
        ],
        "reshading": [
            0.45602, 0.57866, 0.57049, 0.43879, 0.42229, 0.59399, 0.21496, 0.2278, 0.46458,
        ],
    },
}
# fmt: on


def image(height, width):
    """A grey room in perspective with a bright window and a dark box, in integers, so that it is the same on every machine."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    wall = (90 + 80 * rows // height - 40 * columns // width).expand(height, width).clone()
    wall[rows.squeeze(1) > height * 3 // 5] = 60
    rgb = torch.stack([wall, wall * 9 // 10, wall * 8 // 10])  # (3, height, width)
    rgb[:, height // 8 : height // 3, width // 6 : width // 2] = torch.tensor([200, 220, 250])[:, None, None]
    rgb[:, height // 2 : height * 4 // 5, width * 3 // 5 : width * 5 // 6] = torch.tensor([70, 40, 20])[:, None, None]
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return ((rgb.double() / 255 - mean) / std)[None]


def slices(model, height, width):
    """Per task the first and the last channel at a grid of 3 x 3 places, the outer ones near the border."""
    with torch.no_grad():
        predictions = model(image(height, width).to(model.dtype)).predictions
    rows, columns = torch.tensor([1, height // 2, height - 2]), torch.tensor([2, width // 2, width - 3])
    return {task: maps[0, sorted({0, maps.shape[1] - 1})][:, rows][:, :, columns].flatten() for task, maps in predictions.items()}


@pytest.fixture(scope="module")
def model():
    return MulTForMultiTaskDensePrediction.from_pretrained(ROOMS_TINY_CHECKPOINT)


@pytest.mark.parametrize("size", [(128, 128), (97, 131)])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_shipped_checkpoint_predicts_the_published_numbers(model, size, implementation):
    model.set_attn_implementation(implementation)
    found = slices(model, *size)
    assert found.keys() == EXPECTED[size].keys()
    for task, numbers in EXPECTED[size].items():
        expected = torch.tensor(numbers)
        error = ((found[task] - expected).abs().max() / expected.abs().max()).item()
        assert error < TOLERANCE, f"{task} is {found[task].tolist()}"


if __name__ == "__main__":
    published = MulTForMultiTaskDensePrediction.from_pretrained(ROOMS_TINY_CHECKPOINT, attn_implementation="eager").double()
    for size in ((128, 128), (97, 131)):
        print(size, {task: [float(f"{value:.5g}") for value in values.tolist()] for task, values in slices(published, *size).items()})
