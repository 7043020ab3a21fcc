"""Proves the behaviour specific to several processes; runs with two processes are in test_resume.py."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, DistributedType

from mult_hf import MulTForMultiTaskDensePrediction
from mult_hf.training.distributed import configure_deepspeed, share_statistics, whole_model
from support.forked import run_together


def test_an_unsharded_copy_of_a_sharded_model_draws_no_random_numbers(tiny_model):
    """Otherwise an evaluation would change what stochastic depth drops afterwards. Premise: building a model draws."""
    model = tiny_model(tasks=["depth"])
    sharded = SimpleNamespace(
        distributed_type=DistributedType.FSDP, device=torch.device("cpu"), unwrap_model=lambda module, keep_torch_compile: module
    )
    before = torch.get_rng_state()
    copy = whole_model(sharded, model)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, copy.state_dict()[name]) for name, value in model.state_dict().items())
    MulTForMultiTaskDensePrediction(model.config)
    assert not torch.equal(before, torch.get_rng_state())


def change_and_share():
    """In each process: other statistics, then those of the first process, and the weights of its own."""
    accelerator = Accelerator(cpu=True)
    model = torch.nn.BatchNorm1d(2)
    own = float(accelerator.process_index + 1)
    torch.nn.init.constant_(model.weight, own)
    model.running_mean.fill_(own)
    share_statistics(accelerator, model)
    return 0 if (model.running_mean.tolist(), model.weight.tolist()) == ([1.0, 1.0], [own, own]) else 3


def test_all_processes_measure_the_running_statistics_that_are_saved(tmp_path):
    """Those of the first process; `DistributedDataParallel` shares them before each step, but not after the last one."""
    printed, statuses = run_together(change_and_share, output=tmp_path / "output.txt", environment={"ACCELERATE_USE_CPU": "true"})
    assert statuses == [0, 0], printed


def test_deepspeed_gets_the_batch_size_and_the_gradient_limit():
    """Accelerate refuses a model without a batch size, and would clip at 1 regardless of the flag."""
    plugin = SimpleNamespace(deepspeed_config={"gradient_clipping": "auto"})
    accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin), gradient_accumulation_steps=2)
    configure_deepspeed(accelerator, batch_size=8, gradient_accumulation_steps=2, max_grad_norm=5.0)
    assert plugin.deepspeed_config == {"train_micro_batch_size_per_gpu": 8, "gradient_clipping": 5.0}
    with pytest.raises(ValueError, match="gradient_accumulation_steps is 2 in Accelerate's configuration and 4 in this run"):
        configure_deepspeed(accelerator, batch_size=8, gradient_accumulation_steps=4, max_grad_norm=5.0)
