"""Train and evaluate MulT with `transformers.Trainer` on the shipped Rooms sample.

    python examples/trainer.py
    torchrun --nproc_per_node 2 examples/trainer.py --bf16 --gradient_accumulation_steps 2

Every flag of `TrainingArguments` works. docs/trainer.md explains the settings below; examples/lora.py adds adapters.
"""

from pathlib import Path

from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.training.trainer_metrics import TrainerMetrics

ROOMS = str(Path(__file__).resolve().parent / "data/rooms-sample")
SMALL_SWIN = {
    "model_type": "swin",
    "embed_dim": 24,
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 4, 8],
    "window_size": 8,
    "drop_path_rate": 0.0,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}

DEFAULTS = {
    "output_dir": "outputs/mult-trainer",
    "num_train_epochs": 10,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
    "remove_unused_columns": False,  # the collator reads the columns of the data set
    "label_names": ["labels"],
    "batch_eval_metrics": True,  # add up sums per batch; otherwise Trainer collects every map
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "depth/rmse",
    "greater_is_better": False,  # Trainer assumes that larger is better unless the name ends in "loss"
    "report_to": ["none"],
}


def main() -> None:
    """Train, keep the best epoch, print its metrics, and save model and processor."""
    parser = HfArgumentParser(TrainingArguments)
    parser.set_defaults(**DEFAULTS)
    (arguments,) = parser.parse_args_into_dataclasses()
    set_seed(arguments.seed)

    rooms = load_rows(ROOMS)
    tasks = load_task_entries(ROOMS)
    processor = MulTImageProcessor(size={"height": 128, "width": 128}, tasks=tasks)
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=SMALL_SWIN, tasks=tasks))
    metrics = TrainerMetrics(processor)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rooms["train"],
        eval_dataset=rooms["validation"],
        data_collator=MultiTaskCollator(processor),
        processing_class=processor,
        compute_metrics=metrics,
        preprocess_logits_for_metrics=metrics.sums_of_images,
    )
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    results = trainer.evaluate()
    trainer.log_metrics("eval", results)
    trainer.save_metrics("eval", results)
    trainer.save_state()  # every logged number, as trainer_state.json
    trainer.save_model()


if __name__ == "__main__":
    main()
