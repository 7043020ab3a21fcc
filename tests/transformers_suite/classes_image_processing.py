"""MulT's image processors in transformers' ImageProcessingTestMixin; `test_transformers_suite.py` runs this file."""

# ruff: noqa: D101, D102  (transformers documents its methods)

import unittest
from typing import Any

import prepare  # noqa: F401
import pytest
import torch
from transformers_tests.test_image_processing_common import (
    ImageProcessingTester,
    ImageProcessingTestMixin,
    PostProcessSemanticSegmentationTestMixin,
)

from mult_hf import MulTDensePredictionOutput, MulTImageProcessor, MulTImageProcessorPil

CLASSES = 17


class MulTImageProcessingTester(ImageProcessingTester):
    """Arguments of the processors, and outputs to post-process."""

    def __init__(self, parent: unittest.TestCase) -> None:
        super().__init__(parent, size={"height": 32, "width": 48}, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.6, 0.7])

    def _get_image_processing_classes(self) -> dict[str, type]:
        """The classes are registered at run time and are not in transformers' own table."""
        return {"torchvision": MulTImageProcessor, "pil": MulTImageProcessorPil}

    def prepare_post_process_semantic_segmentation_inputs(self) -> tuple[dict[str, Any], dict[str, int]]:
        """MulT's outputs are one map per task, and no lone `logits`."""
        logits = torch.randn(self.batch_size, CLASSES, self.size["height"], self.size["width"])
        depth = torch.rand(self.batch_size, 1, self.size["height"], self.size["width"])
        outputs = MulTDensePredictionOutput(predictions={"segmentation": logits, "depth": depth})
        return {"outputs": outputs}, {"num_labels": CLASSES, **self.size}


class MulTImageProcessingTest(ImageProcessingTestMixin, PostProcessSemanticSegmentationTestMixin, unittest.TestCase):
    image_processor_tester_class = MulTImageProcessingTester
    test_cast_dtype = True

    def test_call_numpy_4_channels(self) -> None:
        """Refused: MulT's encoders take RGB, and every image is read as RGB."""
        for image_processing_class in self.image_processing_classes.values():
            (image, *_) = self.image_processor_tester.prepare_image_inputs(num_channels=4, numpify=True)
            with pytest.raises(ValueError, match="do_convert_rgb"):
                image_processing_class()(image, do_convert_rgb=False)

    @unittest.skip(
        "its script imports transformers alone, without MulT's classes; tests/model/test_saved_processors.py has one that loads them"
    )
    def test_pil_can_run_without_torchvision(self) -> None: ...
