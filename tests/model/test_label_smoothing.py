"""Proves that label smoothing, which Trainer does not support for several tasks, is refused."""

import numpy as np
import pytest
from PIL import Image
from transformers import Trainer, TrainingArguments

from mult_hf import MulTImageProcessor
from mult_hf.data.collator import MultiTaskCollator


def test_label_smoothing_is_refused(tiny_model, tmp_path):
    processor = MulTImageProcessor(size={"height": 64, "width": 64}, tasks=[{"name": "depth", "encoding": {"dtype": "float32"}}])
    rows = [{"image": Image.new("RGB", (64, 64), "red"), "depth": np.full((64, 64), 2.0, np.float32)}]
    arguments = TrainingArguments(
        tmp_path, max_steps=1, label_smoothing_factor=0.1, label_names=["labels"], remove_unused_columns=False, report_to="none",
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(tiny_model(tasks=["depth"]), arguments, train_dataset=rows, data_collator=MultiTaskCollator(processor))
    with pytest.raises(ValueError, match=r"no 'logits'; set Trainer's label_smoothing_factor to 0"):
        trainer.train()
