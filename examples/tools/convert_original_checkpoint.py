"""Convert a checkpoint of the MulT authors' released two-task head to a directory for `from_pretrained`.

    python examples/tools/convert_original_checkpoint.py original.pth mult-nyu-two-tasks

The release (github.com/IVRL/MulT) trains segmentation and depth with the head `SwinTransformerDEA1`. Every size is read from
the shapes of the weights. An unknown parameter is an error: nothing is dropped silently.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.model.tasks import TaskSpec, registered_tasks

# The authors' suffixes of the two streams, and the one that computes the shared attention.
STREAMS = {"se": "segmentation", "de": "depth"}
REFERENCE = "depth"
HEADS = {"conv_seg": "segmentation", "conv_de": "depth"}

ENCODER_NAMES = [
    (r"backbone\.patch_embed\.proj\.(\w+)", r"mult.backbone.swin.embeddings.patch_embeddings.projection.\1"),
    (r"backbone\.patch_embed\.norm\.(\w+)", r"mult.backbone.swin.embeddings.norm.\1"),
    (r"backbone\.layers\.(\d+)\.downsample\.(.+)", r"mult.backbone.swin.encoder.layers.\1.downsample.\2"),
    (r"backbone\.layers\.(\d+\.blocks\.\d+)\.norm1\.(\w+)", r"mult.backbone.swin.encoder.layers.\1.layernorm_before.\2"),
    (r"backbone\.layers\.(\d+\.blocks\.\d+)\.norm2\.(\w+)", r"mult.backbone.swin.encoder.layers.\1.layernorm_after.\2"),
    (r"backbone\.layers\.(\d+\.blocks\.\d+\.mlp\..+)", r"mult.backbone.swin.encoder.layers.\1"),
    (r"backbone\.layers\.(\d+\.blocks\.\d+)\.attn\.proj\.(\w+)", r"mult.backbone.swin.encoder.layers.\1.attention.o_proj.\2"),
    (
        r"backbone\.layers\.(\d+\.blocks\.\d+)\.attn\.relative_position_bias_table",
        r"mult.backbone.swin.encoder.layers.\1.attention.relative_position_bias.relative_position_bias_table",
    ),
]
BLOCK_NAMES = {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp": ""}
IGNORED = re.compile(r".*relative_position_index$|backbone\.norm\.|auxiliary_head\.")  # recomputed, or training only


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read weights with the authors' names from a safetensors file or a `.pth` (without running any code in it).

    Raises:
        ValueError: if the file is missing, damaged, needs code to be read, or does not contain a dictionary of tensors.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers of damaged files raise errors of any kind
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"{path} cannot be read as weights: {first_line}; give a .safetensors file, or a .pth file with nothing but tensors in "
            "dictionaries and lists, since no code in it is run"
        ) from error
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise ValueError(f"{path} contains a {type(state).__name__}; expected a dictionary of tensors or one under 'state_dict'")
    wanted = {name: value for name, value in state.items() if str(name).startswith(("backbone.", "decode_head.", "auxiliary_head."))}
    if not wanted or not all(isinstance(value, Tensor) for value in wanted.values()):
        kinds = sorted({type(value).__name__ for value in wanted.values()})
        raise ValueError(
            f"{path} has {len(wanted)} weights of `backbone` and `decode_head`, of type {kinds}; expected the tensors of the authors' head"
        )
    return wanted


def config_from_weights(state: dict[str, Tensor]) -> MulTConfig:
    """Read every size from the shapes of the weights.

    Raises:
        ValueError: if an expected weight is missing.
    """
    try:
        biases = "backbone.layers.{}.blocks.0.attn.relative_position_bias_table"
        stages = range(1 + max(int(name.split(".")[2]) for name in state if name.startswith("backbone.layers.")))
        table = state[biases.format(0)]
        window = (int(table.shape[0] ** 0.5) + 1) // 2
        depths = [len({name.split(".")[4] for name in state if name.startswith(f"backbone.layers.{stage}.blocks.")}) for stage in stages]
        classes = state["decode_head.conv_seg.weight"].shape[0]
        backbone = {
            "model_type": "swin",
            "embed_dim": state["backbone.patch_embed.proj.weight"].shape[0],
            "depths": depths,
            "num_heads": [state[biases.format(stage)].shape[1] for stage in stages],
            "window_size": window,
            "out_features": [f"stage{stage + 1}" for stage in stages],
        }
        heads = [state[f"decode_head.layers.{stage}.blocks.0.attn.relative_position_bias_table"].shape[1] for stage in stages]
        kinds = [_block_kinds(state, stage) for stage in stages]
    except (KeyError, ValueError) as error:
        raise ValueError(f"this is not a checkpoint of the authors' two-task head: {error}") from None
    return MulTConfig(
        backbone_config=backbone,
        tasks=[_segmentation_entry(classes), REFERENCE],
        reference_task=REFERENCE,
        block_attention=kinds,
        decoder_num_attention_heads=heads,
        decoder_window_size=window,
    )


def _segmentation_entry(classes: int) -> TaskSpec | dict[str, object]:
    """The registered entry with the checkpoint's number of classes, whose names the checkpoint does not contain."""
    names = registered_tasks()["segmentation"].class_names
    return {"name": "segmentation", "channels": classes, "class_names": names if len(names) == classes else ()}


def _block_kinds(state: dict[str, Tensor], stage: int) -> list[str]:
    """Kinds of a stage's blocks: with joint `qk`, the encoder map; with `qkv_de`, the depth stream; with wide values, also the skip."""
    kinds = []
    prefix = f"decode_head.layers.{stage}.blocks."
    for block in sorted({int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)}):
        attention = f"{prefix}{block}.attn."
        values = state[f"{attention}v_se.weight"]
        source = "encoder" if f"{attention}qk.weight" in state else "reference"
        kinds.append(source + ("+skip" if values.shape[1] == 2 * values.shape[0] else ""))
    return kinds


def convert_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and split the authors' weights into this package's.

    Raises:
        ValueError: if weights have no counterpart; the message names them.
    """
    converted: dict[str, Tensor] = {}
    unknown = []
    for name, value in state.items():
        if IGNORED.match(name):
            continue
        new = _convert_encoder(name, value) or _convert_decoder(name, value)
        if not new:
            unknown.append(name)
        converted.update(new)
    if unknown:
        raise ValueError(f"{len(unknown)} weights have no counterpart in MulT, such as {unknown[:5]}; only the two-task head is supported")
    return converted


def _convert_encoder(name: str, value: Tensor) -> dict[str, Tensor]:
    if match := re.fullmatch(r"backbone\.norm(\d)\.(\w+)", name):
        return {f"mult.backbone.hidden_states_norms.stage{int(match[1]) + 1}.{match[2]}": value}
    if match := re.fullmatch(r"backbone\.layers\.(\d+\.blocks\.\d+)\.attn\.qkv\.(\w+)", name):
        return _split(value, "qkv", f"mult.backbone.swin.encoder.layers.{match[1]}.attention", match[2])
    for pattern, replacement in ENCODER_NAMES:
        if re.fullmatch(pattern, name):
            return {re.sub(pattern, replacement, name): value}
    return {}


def _convert_decoder(name: str, value: Tensor) -> dict[str, Tensor]:
    if match := re.fullmatch(r"decode_head\.(conv_\w+)\.(\w+)", name):
        # A 1 x 1 convolution is a linear layer.
        return {f"heads.tasks.{HEADS[match[1]]}.projection.{match[2]}": value.flatten(1) if value.ndim == 4 else value}
    if match := re.fullmatch(r"decode_head\.layers\.(\d+)\.upsample_(\w\w)\.(.+)", name):
        return {f"mult.decoder.stages.{match[1]}.tasks.{STREAMS[match[2]]}.{match[3]}": value}
    match = re.fullmatch(r"decode_head\.layers\.(\d+)\.blocks\.(\d+)\.(.+)", name)
    return _convert_block(f"mult.decoder.stages.{match[1]}.blocks.{match[2]}", match[3], value) if match else {}


def _convert_block(block: str, name: str, value: Tensor) -> dict[str, Tensor]:
    reference = f"{block}.attention.tasks.{REFERENCE}"
    if name == "attn.relative_position_bias_table":
        return {f"{reference}.position_bias.table": value}
    if match := re.fullmatch(r"attn\.(qkv?)(?:_de)?\.(\w+)", name):
        return _split(value, match[1], reference, match[2])
    if match := re.fullmatch(r"attn\.(v|proj)_(\w\w)\.(\w+)", name):
        layer = {"v": "v_proj", "proj": "o_proj"}[match[1]]
        return {f"{block}.attention.tasks.{STREAMS[match[2]]}.{layer}.{match[3]}": value}
    if match := re.fullmatch(r"(norm1|norm2|mlp)_(\w\w)\.(.+)", name):
        layer = ".".join(filter(None, [BLOCK_NAMES[match[1]], match[3]]))
        return {f"{block}.tasks.{STREAMS[match[2]]}.{layer}": value}
    return {}


def _split(value: Tensor, letters: str, prefix: str, kind: str) -> dict[str, Tensor]:
    """Cut a joint projection into q, k and v."""
    return {f"{prefix}.{letter}_proj.{kind}": part.clone() for letter, part in zip(letters, value.chunk(len(letters)))}


def convert(path: Path) -> MulTForMultiTaskDensePrediction:
    """Build the model of the authors' checkpoint.

    Raises:
        ValueError: if the file is not such a checkpoint, or a weight is unexpected or missing.
    """
    state = read_checkpoint(path)
    model = MulTForMultiTaskDensePrediction(config_from_weights(state))
    missing, unexpected = model.load_state_dict(convert_state(state), strict=False)
    if missing or unexpected:
        raise ValueError(f"{path}: missing weights {missing[:5]} ({len(missing)}), unexpected {unexpected[:5]} ({len(unexpected)})")
    return model.eval()


def main(argv: Sequence[str] | None = None) -> None:
    """Convert a file.

    Args:
        argv: the command line; by default that of this process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the authors' .pth or .safetensors file")
    parser.add_argument("output_dir", type=Path, help="output directory of save_pretrained")
    arguments = parser.parse_args(argv)
    model = convert(arguments.checkpoint)
    model.save_pretrained(arguments.output_dir)
    MulTImageProcessor(tasks=model.config.tasks).save_pretrained(arguments.output_dir)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, tasks {model.task_names}: {arguments.output_dir}")


if __name__ == "__main__":
    main()
