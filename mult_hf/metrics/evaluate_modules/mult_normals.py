"""Metrics of surface normals for `evaluate.load`; the class is the installed package's."""

from mult_hf.metrics.modules import MultNormals as MultNormals
