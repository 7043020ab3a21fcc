"""Metrics of heat maps, edges, shading for `evaluate.load`; the class is the installed package's."""

from mult_hf.metrics.modules import MultMaps as MultMaps
