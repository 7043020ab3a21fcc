"""Metrics of semantic segmentation for `evaluate.load`; the class is the installed package's."""

from mult_hf.metrics.modules import MultSegmentation as MultSegmentation
