"""Metrics of boundaries for `evaluate.load`; the class is the installed package's."""

from mult_hf.metrics.modules import MultBoundaries as MultBoundaries
