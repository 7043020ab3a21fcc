"""Fixtures for the training tests."""

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState


@pytest.fixture
def make_accelerator():
    """Accelerators keep their settings in global state, which is cleared before each and after the test."""

    def make(**kwargs):
        AcceleratorState._reset_state(reset_partial_state=True)
        return Accelerator(cpu=True, **kwargs)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def accelerator(make_accelerator):
    return make_accelerator()
