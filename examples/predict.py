"""Predict the maps of one image and save them.

    python examples/predict.py
    python examples/predict.py --model outputs/mult-rooms --image my.jpg --output_dir outputs/my-maps

The script first uses model and processor step by step, then the pipeline, which does the same in three lines. For folders, videos, data
sets and several processes, use `mult-hf predict` (docs/prediction.md).
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModel, pipeline

import mult_hf  # registers the model with transformers
from mult_hf.inference.output import PredictionDirectory
from mult_hf.inference.stored_maps import load_stored_forms, read_map
from mult_hf.model.images import read_image

ROOT = Path(__file__).resolve().parents[1]

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
parser.add_argument("--model", default=mult_hf.DEFAULT_CHECKPOINT, help="directory or Hub id")
parser.add_argument("--image", type=Path, default=ROOT / "docs/images/living-room.jpg", help="image to predict maps of")
parser.add_argument("--output_dir", type=Path, default=Path("outputs/maps"), help="directory of the maps")
arguments = parser.parse_args()

# 1. Load the model, and the processor that prepares images for it.
model = AutoModel.from_pretrained(arguments.model).eval()
processor = AutoImageProcessor.from_pretrained(arguments.model)

# 2. Predict. The processor resizes and normalises the image; the model returns one map per task at the resized image's size.
image = read_image(arguments.image)  # a PIL image: upright, RGB, whatever the file's EXIF orientation and mode
size = (image.height, image.width)
inputs = processor(image, return_tensors="pt")  # pixel_values (1, 3, height, width)
with torch.no_grad():
    outputs = model(**inputs)  # outputs.predictions[task] (1, channels, height, width)

# 3. Post-process: maps at the image's original size in each task's unit, and class ids instead of logits. One dictionary per image.
# Depth in metres needs the focal length: from EXIF here, or the camera's own, or else an assumed one (docs/data.md#focal-lengths).
focal_length = processor.focal_length_of(image, size)
(results,) = processor.post_process(outputs, target_sizes=[size], focal_length=focal_length.pixels)
maps = {task: result["prediction"] for task, result in results.items()}  # (height, width), or (channels, height, width)
for task, spec in model.config.task_specs.items():
    print(f"{task:14} {tuple(maps[task].shape)}, {maps[task].min():.3g} to {maps[task].max():.3g} {spec.unit}")

# 4. Save each map with its values, a panel for viewing, and a card that describes how the values are stored.
directory = PredictionDirectory(arguments.output_dir, model.config.task_specs)
directory.claim(str(arguments.model), settings={}, overwrite=True)
directory.write(arguments.image.stem, image, maps)

# 5. Read a map back in its unit, using only the card.
task, stored = next(iter(load_stored_forms(arguments.output_dir).items()))
values = read_map(directory.map_path(task, arguments.image.stem), stored)
print(f"{task} from {directory.map_path(task, arguments.image.stem)}: {values.shape}, {values.min():.3g} to {values.max():.3g}")

# The same with the pipeline, which loads, preprocesses, predicts and post-processes. Its results also contain coloured images of the maps.
predict = pipeline("multitask-vision", model=arguments.model)
results = predict(str(arguments.image))
results[task]["image"].save(arguments.output_dir / f"{task}.png")
