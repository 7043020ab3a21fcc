"""Adapt rooms-tiny to new rooms with few trained weights: LoRA (PEFT) on its encoder, and fully trained heads.

    pip install peft
    python examples/lora.py
    python examples/lora.py --model outputs/mult-rooms --max_steps 200

The adapter is saved to `--output_dir`, and the model with the merged adapter to its subdirectory `merged/`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments, set_seed

from mult_hf import ROOMS_TINY_CHECKPOINT, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.model.tasks import resolve_tasks
from mult_hf.training.fields import check_bounds
from mult_hf.training.trainer_metrics import TrainerMetrics

ROOMS = Path(__file__).resolve().parent / "data/rooms-sample"

# Only the attention of a Swin encoder: ["q_proj", "v_proj"] would also match the decoders, whose layers have the same names. Other
# encoders use other names; print(model.mult.backbone) shows them.
ENCODER_ATTENTION = r"mult\.backbone\..*\.(q_proj|v_proj)"


def main(argv: Sequence[str] | None = None) -> None:
    """Train the adapter, evaluate it, and save it both separately and merged."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=ROOMS_TINY_CHECKPOINT, help="directory or Hub id of a trained MulT")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/lora"), help="where the adapter is saved")
    parser.add_argument("--max_steps", type=int, default=20, help="optimizer steps")
    parser.add_argument("--rows", type=int, default=16, help="rows per split; the sample has 192 for training and 64 for validation")
    flags = parser.parse_args(argv)
    check_bounds(flags, {1: ["max_steps", "rows"]})
    set_seed(0)

    model = MulTForMultiTaskDensePrediction.from_pretrained(flags.model)
    # Labels are decoded as the data's entries describe them; a task with another meaning than the model's is refused.
    tasks = measured_specs(model.config.task_specs, resolve_tasks(load_task_entries(ROOMS)))
    processor = MulTImageProcessor.from_pretrained(flags.model, tasks=list(tasks.values()))
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=ENCODER_ATTENTION, modules_to_save=["heads"]))
    adapted.print_trainable_parameters()

    rooms = {split: rows.select(range(min(flags.rows, len(rows)))) for split, rows in load_rows(ROOMS).items()}
    metrics = TrainerMetrics(processor)
    trainer = Trainer(
        model=adapted,
        args=TrainingArguments(
            output_dir=str(flags.output_dir),
            max_steps=flags.max_steps,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            remove_unused_columns=False,  # the collator reads the columns of the data set
            label_names=["labels"],
            batch_eval_metrics=True,  # add up sums per batch; otherwise Trainer collects every map
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=rooms["train"],
        eval_dataset=rooms["validation"],
        data_collator=MultiTaskCollator(processor),
        compute_metrics=metrics,
        preprocess_logits_for_metrics=metrics.sums_of_images,
    )
    trainer.train()
    trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model()  # only the adapter and the heads

    # After merging it is an ordinary MulT model again, as fast as before.
    fresh = MulTForMultiTaskDensePrediction.from_pretrained(flags.model)
    merged = PeftModel.from_pretrained(fresh, flags.output_dir).merge_and_unload()
    merged.save_pretrained(flags.output_dir / "merged")
    processor.save_pretrained(flags.output_dir / "merged")


if __name__ == "__main__":
    main()
