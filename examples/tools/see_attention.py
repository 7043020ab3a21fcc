r"""Show the shared attention of one pixel at each decoder stage, as one panel.

    python examples/tools/see_attention.py --model outputs/mult-rooms --image docs/images/coffee.jpg --pixel 200 300
    python examples/tools/see_attention.py --model outputs/reference-normals --compare outputs/reference-depth \
        --image image.jpg --pixel 60 100

There is one row per model and one column per decoder stage, from the coarsest. Models of `--compare` get the same image and pixel, which
shows the effect of another reference task or another training run. Brightness is relative to each cell's largest weight, which is
printed.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image, ImageOps

from mult_hf import MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.cli.arguments import flag, parse_arguments
from mult_hf.inference.attention_maps import PixelAttention, attention_of_pixel, shared_blocks
from mult_hf.model.visualization import attention_image, mark_pixel, panel


@dataclass
class AttentionArguments:
    """Settings of the panel; each field is a flag."""

    model: str = field(metadata={"help": "directory or Hub id of the model"})
    image: Path = field(metadata={"help": "image file"})
    pixel: list[int] | None = flag(None, "row and column in the image; its centre by default")
    stages: list[int] | None = flag(None, "numbers of decoder stages, from 1 (the coarsest); by default all that share attention")
    block: int = flag(0, "index among a stage's shared blocks, from 0")
    head: int | None = flag(None, "index of an attention head, from 0; the mean over heads by default")
    compare: list[str] = flag([], "directories or Hub ids of further models, one row each")
    cell: int = flag(240, "width of each image in the panel, in pixels")
    output: Path = flag(Path("outputs/attention.png"), "file to write the panel to")

    def __post_init__(self) -> None:
        if self.pixel is not None and len(self.pixel) != 2:
            raise ValueError(f"--pixel is {self.pixel}; give a row and a column")


@torch.no_grad()
def attention_by_stage(
    path: str, image: Image.Image, pixel: tuple[int, int], arguments: AttentionArguments
) -> tuple[str, dict[int, PixelAttention]]:
    """A model's caption, and the pixel's attention at each stage."""
    model = MulTForMultiTaskDensePrediction.from_pretrained(path).eval()
    inputs = MulTImageProcessor.from_pretrained(path)(image, return_tensors="pt")
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    height, width = inputs["pixel_values"].shape[-2:]
    seen = pixel[0] * height // image.height, pixel[1] * width // image.width  # the same position in the model's input
    stages = arguments.stages or list(shared_blocks(model)) or [1]  # if there are none, stage 1 raises an error with the reason
    caption = f"{path}: computed by {model.config.reference_task}, shared by {', '.join(model.task_names)}"
    return caption, {stage: attention_of_pixel(model, outputs, seen, stage, block=arguments.block, head=arguments.head) for stage in stages}


def row_of_images(
    image: Image.Image, pixel: tuple[int, int], attention: dict[int, PixelAttention], stages: list[int]
) -> list[Image.Image | None]:
    """The image, and an attention map for each stage in which the model shares attention."""
    images: list[Image.Image | None] = [mark_pixel(image, pixel)]
    for stage in stages:
        if stage not in attention:
            images.append(None)
            continue
        weights = attention[stage].over_pixels().numpy()
        place = pixel[0] * weights.shape[0] // image.height, pixel[1] * weights.shape[1] // image.width
        images.append(attention_image(image, weights, place))
    return images


def main(argv: Sequence[str] | None = None) -> None:
    """Load, predict, draw.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(AttentionArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    image = ImageOps.exif_transpose(Image.open(arguments.image)).convert("RGB")
    pixel = tuple(arguments.pixel or (image.height // 2, image.width // 2))
    if not (0 <= pixel[0] < image.height and 0 <= pixel[1] < image.width):
        raise ValueError(f"--pixel is {list(pixel)}; {arguments.image} has {image.height} rows and {image.width} columns, counted from 0")
    seen = [attention_by_stage(path, image, pixel, arguments) for path in (arguments.model, *arguments.compare)]
    for caption, attention in seen:
        print(caption)
        for stage, looked in attention.items():
            lost = 1 - looked.weights.sum()
            print(f"  stage {stage} (1/{looked.stride}): largest weight {looked.weights.max():.4f}, on padding {lost:.4f}")
    stages = sorted({stage for _, attention in seen for stage in attention})
    rows = [row_of_images(image, pixel, attention, stages) for _, attention in seen]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    titles = ["image", *(f"stage {stage}" for stage in stages)]
    panel(rows, titles, [caption for caption, _ in seen], cell=arguments.cell).save(arguments.output)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
