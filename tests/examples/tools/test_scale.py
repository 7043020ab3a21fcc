"""Proves that the plan's arithmetic follows from its inputs, and that its prediction is compared with real logs."""

import json
from dataclasses import replace

import pytest
import torch

from examples.tools import scale
from examples.tools.scale import Cluster, Workload, all_reduce_seconds, parts_of_step, predict_run, read_run, step_seconds
from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction

# 3 x 1 TFLOP x 2 images at 10 TFLOP/s x 0.5; 4 GB of gradients; 2 images of 0.5 core seconds on 4 cores; 2 x 8 images of 1 MB at 4 MB/s.
WORKLOAD = Workload(parameters=1e9, forward_flops=1e12, sample_bytes=1e6, core_seconds=0.5)
CLUSTER = Cluster(8, gpu_flops=10e12, utilization=0.5, cores_per_gpu=4, inside_bandwidth=1e9, storage_bandwidth=4e6, latency=0.0)


def test_each_part_of_a_step_follows_from_its_inputs():
    parts = parts_of_step(WORKLOAD, CLUSTER, batch_size=2)
    assert parts["arithmetic"] == pytest.approx(1.2)
    assert parts["decoding"] == pytest.approx(0.25)
    assert parts["storage"] == pytest.approx(4.0)
    sent = 2 * 7 / 8 * 4  # seconds for 4 GB at 1 GB/s
    assert parts["all-reduce"] == pytest.approx(1.2 + sent - 0.8), "the backward pass hides two thirds of the arithmetic's time"
    assert step_seconds(parts) == (parts["all-reduce"], "all-reduce")


def test_an_all_reduce_inside_the_backward_pass_costs_nothing():
    parts = parts_of_step(WORKLOAD, replace(CLUSTER, inside_bandwidth=1e12), batch_size=2)
    assert parts["all-reduce"] == 0
    assert step_seconds(parts) == (parts["storage"], "storage")


def test_prediction_needs_one_pass_and_sends_nothing():
    parts = parts_of_step(WORKLOAD, CLUSTER, batch_size=2, mode="prediction")
    assert parts["arithmetic"] == pytest.approx(0.4)
    assert parts["all-reduce"] == 0


def test_one_process_sends_nothing_and_many_use_the_network_between_machines():
    assert all_reduce_seconds(1e9, replace(CLUSTER, gpus=1)) == 0
    between = replace(CLUSTER, gpus=16, between_bandwidth=1e8)
    assert all_reduce_seconds(1e9, between) == pytest.approx(2 * 15 / 16 * 10)
    assert all_reduce_seconds(0, replace(between, latency=0.5)) == pytest.approx(15)


def test_more_machines_are_limited_by_shared_storage_alone():
    """Arithmetic and decoding per GPU stay the same; the time to read grows with the GPUs."""
    few, many = (parts_of_step(WORKLOAD, replace(CLUSTER, gpus=gpus), batch_size=2) for gpus in (8, 64))
    assert many["arithmetic"] == few["arithmetic"]
    assert many["decoding"] == few["decoding"]
    assert many["storage"] == pytest.approx(8 * few["storage"])


def test_products_are_counted_as_on_real_tensors():
    """Premise: a network on the meta device has the operations of one with weights."""
    from torch.utils.flop_counter import FlopCounterMode

    counted = scale.count_workload("swin-tiny", ["depth"], 64, 1.0, 1.0)
    network = MulTForMultiTaskDensePrediction(MulTConfig.from_preset("swin-tiny", tasks=["depth"])).eval()
    network.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(pixel_values=torch.zeros(1, 3, 64, 64))
    assert counted.forward_flops == counter.get_total_flops()
    assert counted.parameters == sum(p.numel() for p in network.parameters())


@pytest.fixture
def runs(tmp_path):
    """Logs of one process with 4 images in 0.4 s and two processes in 0.5 s; the first steps are slower."""
    for name, processes, seconds in (("one", 1, 0.4), ("two", 2, 0.5)):
        (tmp_path / name).mkdir()
        arguments = {"batch_size": "4", "gradient_accumulation_steps": "1"}
        (tmp_path / name / "metrics.json").write_text(json.dumps({"processes": processes, "arguments": arguments}))
        steps = [{"step": step, "seconds_per_step": seconds * (9 if step < 2 else 1)} for step in range(8)]
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in [*steps, {"step": 8, "eval/x": 1}]))
    return tmp_path


def test_a_run_is_predicted_from_one_process_and_compared_with_its_log(runs, capsys):
    one, two = (read_run(runs / name) for name in ("one", "two"))
    assert (one.seconds, two.seconds) == (0.4, 0.5)
    cluster = Cluster(1, inside_bandwidth=1e9, latency=0.0)
    assert predict_run(one, two, 25e6, cores=2, cluster=cluster) == pytest.approx(0.4 + 0.1)
    assert predict_run(one, two, 0, cores=1, cluster=cluster) == pytest.approx(0.8), "two processes share a core"
    scale.main(["--runs", str(runs / "one"), str(runs / "two"), "--run_parameters", "25e6", "--loopback_gigabytes", "1"])
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("| two")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["two", "2", "4", "0.500", "0.500", "+0 %"]


def test_a_low_quantile_is_the_time_of_the_steps_that_nothing_slowed(runs):
    steps = [{"step": step, "seconds_per_step": 0.4 if step % 4 == 0 else 1.2} for step in range(40)]
    (runs / "one/log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    assert (read_run(runs / "one").seconds, read_run(runs / "one", 0.1).seconds) == (1.2, 0.4)


def test_a_log_without_steps_is_refused(runs):
    (runs / "one/log.jsonl").write_text('{"step": 1, "seconds_per_step": 1.0}\n')
    with pytest.raises(ValueError, match="has 1 entries of steps"):
        read_run(runs / "one")


def test_the_plan_has_a_line_per_number_of_gpus(capsys):
    scale.main(["--preset", "swin-tiny", "--tasks", "depth", "--image_size", "64", "--gpus", "1", "8", "64"])
    printed = capsys.readouterr().out
    assert "training: swin-tiny, 1 tasks, 64 x 64 pixels, 4 images per GPU" in printed
    assert [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")][2:] == ["1", "8", "64"]
