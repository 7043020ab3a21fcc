"""Load a trained model, and reject an incomplete one."""

from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.weights import check_weights


def load_whole_model(name_or_path: str) -> MulTForMultiTaskDensePrediction:
    """Load a model and check that its file has every weight and that all are finite; transformers would fill gaps at random.

    Args:
        name_or_path: directory or Hub id.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: if weights are missing, have another shape, or are not finite.
    """
    model, found = MulTForMultiTaskDensePrediction.from_pretrained(name_or_path, output_loading_info=True, ignore_mismatched_sizes=True)
    absent = sorted([*found["missing_keys"], *(str(each[0]) for each in found["mismatched_keys"])])
    if absent:
        raise ValueError(
            f"{name_or_path} lacks {len(absent)} of the model's {len(model.state_dict())} weights, such as {absent[0]}; predictions would "
            "come from random weights, so save or download the model again"
        )
    check_weights(model)
    return model.eval()


__all__ = ["load_whole_model"]
