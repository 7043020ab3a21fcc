"""See where a pixel looks: the attention that all tasks share, stage by stage, as one panel.

    python examples/see_attention.py --model outputs/mult-rooms --image docs/images/coffee.jpg --pixel 200 300
    python examples/see_attention.py --model outputs/reference-normals --compare outputs/reference-depth --image photo.jpg --pixel 60 100

A row is a model, a column a stage of its decoders, from the coarsest on. Models of `--compare` see the same pixel, so that another
reference task, or another training, can be told by what it changes. Brightness is relative to the largest weight of each picture, which
its printed line tells.
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
from mult_hf.model.visualization import attention_picture, mark_pixel, panel


@dataclass
class AttentionArguments:
    """What is shown; each field is a flag."""

    model: str = field(metadata={"help": "directory or Hub id of the model"})
    image: Path = field(metadata={"help": "photo"})
    pixel: list[int] | None = flag(None, "row and column in the photo; its middle by default")
    stages: list[int] | None = flag(None, "numbers of decoder stages, 1 being the coarsest; all that share attention by default")
    block: int = flag(0, "number among a stage's shared blocks, from 0 on")
    head: int | None = flag(None, "number of an attention head, from 0 on; the mean over heads by default")
    compare: list[str] = flag([], "directories or Hub ids of further models, a row each")
    cell: int = flag(240, "width of a picture in the panel, in pixels")
    output: Path = flag(Path("outputs/attention.png"), "where the panel is written")

    def __post_init__(self) -> None:
        if self.pixel is not None and len(self.pixel) != 2:
            raise ValueError(f"--pixel is {self.pixel}; give a row and a column")


@torch.no_grad()
def attention_by_stage(
    path: str, photo: Image.Image, pixel: tuple[int, int], arguments: AttentionArguments
) -> tuple[str, dict[int, PixelAttention]]:
    """A model's caption, and where the photo's pixel looks in each stage."""
    model = MulTForMultiTaskDensePrediction.from_pretrained(path).eval()
    inputs = MulTImageProcessor.from_pretrained(path)(photo, return_tensors="pt")
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    height, width = inputs["pixel_values"].shape[-2:]
    seen = pixel[0] * height // photo.height, pixel[1] * width // photo.width  # the same place in the model's input
    stages = arguments.stages or list(shared_blocks(model)) or [1]  # without any, the first is refused with the reason
    caption = f"{path}: made by {model.config.reference_task}, the same for {', '.join(model.task_names)}"
    return caption, {stage: attention_of_pixel(model, outputs, seen, stage, block=arguments.block, head=arguments.head) for stage in stages}


def row_of_pictures(
    photo: Image.Image, pixel: tuple[int, int], attention: dict[int, PixelAttention], stages: list[int]
) -> list[Image.Image | None]:
    """The photo, and a picture for each stage in which the model shares attention."""
    pictures: list[Image.Image | None] = [mark_pixel(photo, pixel)]
    for stage in stages:
        if stage not in attention:
            pictures.append(None)
            continue
        weights = attention[stage].over_pixels().numpy()
        place = pixel[0] * weights.shape[0] // photo.height, pixel[1] * weights.shape[1] // photo.width
        pictures.append(attention_picture(photo, weights, place))
    return pictures


def main(argv: Sequence[str]) -> None:
    """Load, look, draw."""
    arguments = parse_arguments(AttentionArguments, argv, __doc__)
    photo = ImageOps.exif_transpose(Image.open(arguments.image)).convert("RGB")
    pixel = tuple(arguments.pixel or (photo.height // 2, photo.width // 2))
    if not (0 <= pixel[0] < photo.height and 0 <= pixel[1] < photo.width):
        raise ValueError(f"--pixel is {list(pixel)}; {arguments.image} has {photo.height} rows and {photo.width} columns, counted from 0")
    seen = [attention_by_stage(path, photo, pixel, arguments) for path in (arguments.model, *arguments.compare)]
    for caption, attention in seen:
        print(caption)
        for stage, looked in attention.items():
            lost = 1 - looked.weights.sum()
            print(f"  stage {stage} (1/{looked.stride}): largest weight {looked.weights.max():.4f}, on padding {lost:.4f}")
    stages = sorted({stage for _, attention in seen for stage in attention})
    rows = [row_of_pictures(photo, pixel, attention, stages) for _, attention in seen]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    titles = ["photo", *(f"stage {stage}" for stage in stages)]
    panel(rows, titles, [caption for caption, _ in seen], cell=arguments.cell).save(arguments.output)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
