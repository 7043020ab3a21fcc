"""Draw one image, its six maps and a legend on a 4 x 2 sheet: the figure at the top of the README.

python examples/tools/overview.py --image docs/images/office.jpg --output docs/images/photograph.jpg

The default checkpoint predicts the maps; `--model` chooses another.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from transformers import pipeline

import mult_hf
from mult_hf.model.visualization import color_limits, legend

CELL_WIDTH = 270  # pixels; the height follows from the image's aspect ratio
HEADER, GAP = 24, 6
COLUMNS = 4


def captioned(cells: list[tuple[str, Image.Image]]) -> Image.Image:
    """Images in rows of four, each below its caption; all cells have the first image's aspect ratio, and each image keeps its own."""
    first = cells[0][1]
    width, height = CELL_WIDTH, round(CELL_WIDTH * first.height / first.width)
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + GAP) + GAP, rows * (height + HEADER + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for number, (caption, cell) in enumerate(cells):
        left = GAP + number % COLUMNS * (width + GAP)
        top = GAP + number // COLUMNS * (height + HEADER + GAP)
        draw.text((left + width / 2, top + HEADER / 2), caption, fill="black", font=font, anchor="mm")
        scale = min(width / cell.width, height / cell.height)
        fitted = cell.convert("RGB").resize((round(cell.width * scale), round(cell.height * scale)), Image.Resampling.LANCZOS)
        sheet.paste(fitted, (left + (width - fitted.width) // 2, top + HEADER))
    return sheet


def overview(model: str, image: Image.Image) -> Image.Image:
    """The sheet for one image: the image, each task's map with its unit, and the legend of the classes that occur."""
    predict = pipeline("multitask-vision", model=model)
    maps = predict(image)
    cells, legends = [("image", image)], []
    for task, spec in predict.model.config.task_specs.items():
        prediction = maps[task]["prediction"]
        if spec.is_classification:
            legends.append((f"classes of {task}", legend(spec, prediction.numpy())))
            caption = task
        elif spec.colormap == "vectors":
            caption = f"{task} ({spec.unit})"
        else:
            low, high = color_limits(prediction)
            caption = f"{task}: {low:.2g} to {high:.2g}" + (f" {spec.unit}" if spec.unit.isalpha() else "")
        cells.append((caption, maps[task]["image"]))
    return captioned(cells + legends)


def main() -> None:
    """Predict, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=mult_hf.DEFAULT_CHECKPOINT, help="directory or Hub id; by default the one in the package")
    parser.add_argument("--image", type=Path, required=True, help="an RGB image")
    parser.add_argument("--output", type=Path, required=True, help="file to write the sheet to")
    arguments = parser.parse_args()
    with Image.open(arguments.image) as image:
        overview(arguments.model, image.convert("RGB")).save(arguments.output, quality=88)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
