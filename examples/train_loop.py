"""Train MulT with a minimal Accelerate loop: everything in one file, to copy and change.

    python examples/train_loop.py
    accelerate launch --config_file examples/accelerate/ddp.yaml examples/train_loop.py --max_steps 1000

With the same seed it takes the same steps as examples/train.py, which adds evaluation, checkpoints, logs, task weighting and a model card.
(With several processes, examples/train.py also weighs each one's losses by its number of labels.)
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.training.fields import check_bounds
from mult_hf.training.optimization import parameter_groups
from mult_hf.training.stream import StreamBatches, TrainingStream

ROOMS = Path(__file__).resolve().parent / "data/rooms-sample"
SMALL_SWIN = {
    "model_type": "swin",
    "embed_dim": 24,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": 8,
    "drop_path_rate": 0.0,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
DECODER = {"decoder_type": "swin_unet", "block_attention": ["self", "encoder"]}  # MulT's shared map, in decoders with skip connections


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """The few settings that are worth a flag; the rest is in the code below."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default=str(ROOMS), help="local directory or Hub id of a data set (docs/data.md)")
    parser.add_argument("--output_dir", default="outputs/mult-loop", help="where model and processor are saved")
    parser.add_argument("--max_steps", type=int, default=600, help="optimizer steps")
    parser.add_argument("--batch_size", type=int, default=8, help="images per step and process")
    parser.add_argument("--learning_rate", type=float, default=4e-3, help="largest learning rate, after the warm-up")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation")
    flags = parser.parse_args(argv)
    check_bounds(flags, {1: ["max_steps", "batch_size"], 0: ["seed"], 1e-12: ["learning_rate"]})
    Path(flags.output_dir).mkdir(parents=True, exist_ok=True)  # before the training, in case it cannot be written to
    return flags


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and save model and processor."""
    flags = parse_flags(argv)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())

    # Data: rows with an image and one map per task. The data set's card describes the maps.
    tasks = load_task_entries(flags.dataset)
    rows = load_rows(flags.dataset, split="train")
    width, height = rows[0]["image"].size
    processor = MulTImageProcessor(size={"height": height, "width": width}, tasks=tasks)

    # Batches: {"pixel_values": (batch, 3, height, width), "labels": {task: (batch, channels, height, width)}}. Order and augmentation
    # depend only on the seed, not on the number of processes and workers.
    jitter = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.0}
    augment = RandomAugmentation(tasks=processor.task_specs, zoom=(1.0, 1.15), degrees=0.0, **jitter)
    loader = DataLoader(
        TrainingStream(rows, flags.seed),
        batch_sampler=StreamBatches(flags.batch_size, accelerator.process_index, accelerator.num_processes),
        collate_fn=MultiTaskCollator(processor, augment=augment),
    )

    # Model, optimizer, schedule. No weight decay on norms, biases and position embeddings.
    set_seed(flags.seed)  # the same initial weights in every process
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=SMALL_SWIN, tasks=tasks, **DECODER))
    optimizer = torch.optim.AdamW(parameter_groups(model, learning_rate=flags.learning_rate, weight_decay=0.05))
    schedule = get_cosine_schedule_with_warmup(optimizer, min(30, flags.max_steps // 2), flags.max_steps)
    model, optimizer = accelerator.prepare(model, optimizer)

    model.train()
    for step, batch in zip(range(1, flags.max_steps + 1), loader):
        batch = batch.to(accelerator.device)
        outputs = model(pixel_values=batch["pixel_values"], labels=batch["labels"])
        accelerator.backward(outputs.loss)  # the sum of outputs.task_losses, each multiplied by its task's weight
        accelerator.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            losses = {task: round(loss.item(), 4) for task, loss in outputs.task_losses.items()}
            accelerator.print(f"step {step}: loss {outputs.loss.item():.4f}, {losses}")

    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(flags.output_dir)
        processor.save_pretrained(flags.output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
