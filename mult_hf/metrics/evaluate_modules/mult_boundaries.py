"""Metrics of boundaries for `evaluate.load`; the class is the installed package's."""

from mult_hf.metrics.evaluation import MultBoundaries as MultBoundaries
