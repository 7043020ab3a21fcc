"""Proves that `mult-hf predict --tile` predicts as many tiles at a time as asked for, and that notes count their images."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from mult_hf.cli.predict import TILES_ON_CPU, PredictionArguments, make_predictor, summarize
from mult_hf.inference.run import Outcomes
from mult_hf.inference.scale import ViewSize


@pytest.mark.parametrize(("batch_size", "largest"), [(1, 1), (3, 3), (8, 8), (None, TILES_ON_CPU)])
def test_tiles_are_predicted_a_few_at_a_time(shallow_model, batch_size, largest):
    model = shallow_model(tasks=["depth"]).eval()
    sizes = []
    model.register_forward_pre_hook(lambda model, args, kwargs: sizes.append(len(kwargs["pixel_values"])), with_kwargs=True)
    loaded = SimpleNamespace(model=model, view=ViewSize(32, 32), processor=SimpleNamespace(canonical_focal_length=None))
    predictor = make_predictor(PredictionArguments(inputs=["photo.jpg"], tile=32, batch_size=batch_size), loaded)
    predictor(torch.zeros(1, 3, 80, 80))
    assert sizes[0] == 1, "the whole image comes first"
    assert (sum(sizes[1:]), max(sizes[1:])) == (9, largest)


def test_a_note_says_for_how_many_more_images_there_are_others():
    remarks = Counter({"tiles magnify objects 4.6 times": 2, "tiles magnify objects 4.5 times": 1})
    assert summarize([Outcomes(done=3, remarks=remarks)], "out").startswith(
        "note for 2 images (and others on scale for 1 more): tiles magnify objects 4.6 times\n"
    )
    assert "others" not in summarize([Outcomes(remarks=Counter({"tiles magnify objects 4.6 times": 2}))], "out")
