"""Metrics of depth for `evaluate.load`; the class is the installed package's."""

from mult_hf.metrics.evaluation import MultDepth as MultDepth
