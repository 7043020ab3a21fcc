from .configuration_mult import MulTConfig
from .modeling_mult import MulTForMultiTaskDensePrediction, MulTModel
