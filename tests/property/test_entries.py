"""Proves that an entry is right or refused when it is made, and that a map survives its own encoding."""

import json

import numpy as np
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mult_hf.metrics import MultiTaskMetrics
from mult_hf.model.losses import loss_function
from mult_hf.model.tasks import TaskSpec, resolve_tasks
from support.refusals import refusal
from support.strategies import JUNK, cases, spoilt, targets, task_specs


@given(task_specs)
def test_an_entry_is_the_same_after_json_and_yaml(spec):
    for text in (json.dumps(spec.to_dict(), allow_nan=False), yaml.safe_dump(spec.to_dict())):
        assert TaskSpec.from_dict(yaml.safe_load(text)) == spec


@cases(6)
@given(spoilt(task_specs.map(TaskSpec.to_dict)))
def test_a_spoilt_entry_is_refused_or_a_whole_task(entry):
    if refusal(lambda: TaskSpec.from_dict(entry)):
        return
    spec = TaskSpec.from_dict(entry)
    assert TaskSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False))) == spec
    refusal(lambda: MultiTaskMetrics({spec.name: spec}))  # names in tables that do not travel with checkpoints
    refusal(lambda: loss_function(spec))
    if spec.channels > 64:
        return
    unknown = spec.unknown_target(65, 66)
    if not refusal(lambda: spec.encode(unknown)):
        back = spec.decode(spec.encode(unknown))
        assert np.array_equal(back, unknown, equal_nan=True)


@cases(2)
@given(st.one_of(JUNK, st.lists(JUNK, max_size=2)))
def test_a_value_that_is_not_a_list_of_tasks_is_refused(entries):
    if entries not in ([], {}):
        assert refusal(lambda: resolve_tasks(entries))


@cases(4)
@given(task_specs.flatmap(lambda spec: st.tuples(st.just(spec), targets(spec))))
def test_an_encoded_target_is_read_back_within_its_precision_or_refused(pair):
    spec, target = pair
    if refusal(lambda: spec.encode(target)):
        return
    stored = spec.encode(target)
    back = spec.decode(stored, channels_last=False)
    last = spec.decode(np.moveaxis(stored, 0, -1), channels_last=True)
    assert np.array_equal(back, last, equal_nan=True)
    assert stored.dtype == np.dtype(spec.encoding.dtype)
    if spec.is_classification:
        assert np.array_equal(back, target)
        return
    assert np.array_equal(np.isnan(back), np.isnan(target)), "nothing becomes known or unknown"
    scale = np.abs(np.asarray(spec.encoding.scale, np.float64)).max()
    step = 0.5 if stored.dtype.kind != "f" else np.finfo(stored.dtype).eps * np.nanmax(np.abs(stored), initial=1)
    tolerance = scale * step + 1e-6 * (1 + np.nanmax(np.abs(target), initial=0) + abs(spec.encoding.offset))  # float32 of the target
    np.testing.assert_allclose(back, target, atol=tolerance, rtol=0)


ANY_MAPS = st.one_of(
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)),
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.bool_]), hnp.array_shapes(min_dims=2, max_dims=3, max_side=5)
    ),
)


@cases(4)
@given(task_specs, ANY_MAPS)
def test_any_array_is_refused_or_decoded_to_a_target_of_the_task(spec, stored):
    if refusal(lambda: spec.decode(stored)):
        return
    target = spec.decode(stored)
    if spec.is_classification:
        assert target.ndim == 2
        assert target.dtype == np.int64
        assert np.isin(target, [*range(spec.channels), 255]).all()
    else:
        assert target.shape[0] == spec.channels
        assert target.dtype == np.float32
        assert not np.isinf(target).any(), "infinite is not known"
