"""Proves that the benchmark of networks counts operations, parameters and bytes correctly, and makes fair comparisons."""

import importlib
import json
import re
import statistics
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from support.tables import unpadded

ROOT = Path(__file__).resolve().parents[3]
TASKS = ["depth", "normals", "edges2d"]


@pytest.fixture(scope="module")
def network():
    """The script as a module, with products that are quick to make for its limit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples/benchmarks"))
        module = importlib.import_module("network")
        patch.setattr(module, "MATMUL_SIDES", {"cpu": 64})
        yield module


@pytest.fixture(scope="module")
def arguments(network):
    return network.BenchmarkArguments(image_size=32, batch_sizes=[1], tasks=TASKS, repeats=1)


@pytest.fixture
def comparison(network, arguments):
    """The cases of a mode."""

    def make(mode):
        batch = network.Batch.random(arguments, batch_size=1)
        return network.Comparison(arguments, mode, batch, network.build(arguments, TASKS))

    return make


class Run:
    """A step to measure that is not a network."""

    def __init__(self, action, *modules):
        self.action, self.modules = action, list(modules)

    def __call__(self):
        """Do it."""
        return self.action()

    def kept(self):
        """The modules' weights."""
        return [p for module in self.modules for p in module.parameters()]


def only(cases):
    """Steps of the one case that there is."""
    (steps,) = cases.values()
    return steps


def test_a_linear_layer_costs_two_operations_per_weight_and_row(network):
    layer, rows = nn.Linear(3, 5), torch.ones(7, 3)
    assert network.count_products([Run(lambda: layer(rows), layer)])[0] == 2 * 7 * 3 * 5
    # Backward there is the gradient of the weights alone, since the rows want none.
    flops, calls = network.count_products([Run(lambda: layer(rows).sum().backward(), layer)] * 2)
    assert flops == 2 * 2 * (2 * 7 * 3 * 5)
    assert sorted((str(operation), number) for (operation, _), number in calls.items()) == [
        ("aten.addmm.default", 2),
        ("aten.mm.default", 2),
    ]


def test_a_shared_map_is_counted_once_and_one_per_task_once_per_task(network, comparison):
    """One window of 8 x 8 tokens at each of four stages, 24 to 192 channels, whose values read stream and encoder map."""
    once, again = comparison("inference").attention().values()
    tokens, stages = 64, [192, 96, 48, 24]
    assert [attention.tasks["normals"].q_proj.in_features for attention in once[0].modules] == stages, "premise"
    assert all(attention.kind == ("encoder", True) for attention in once[0].modules), "premise"
    a_map = sum(2 * (2 * tokens * c * c) + 2 * tokens * tokens * c for c in stages)
    a_task = sum(2 * tokens * 2 * c * c + 2 * tokens * tokens * c + 2 * tokens * c * c for c in stages)
    assert network.count_products(once)[0] == a_map + len(TASKS) * a_task
    assert network.count_products(again)[0] == len(TASKS) * (a_map + a_task)


def test_recomputing_the_map_per_task_gives_the_same_results(comparison):
    once, _ = comparison("inference").attention().values()
    attention, (streams, encoder_map, shift_mask) = once[0].inputs[0]
    together, _ = attention(streams, encoder_map, shift_mask)
    for task in TASKS:
        torch.testing.assert_close(attention({task: streams[task]}, encoder_map, shift_mask)[0][task], together[task])


def test_single_task_networks_cost_mult_plus_the_repeated_encoders_and_maps(network, comparison):
    cases = comparison("inference")
    mult, singles = only(cases.mult()), only(cases.networks())
    assert [(step.tasks, step.network.task_names) for step in singles] == [([task], [task]) for task in TASKS]

    def parameters(module):
        return sum(p.numel() for p in module.parameters())

    whole, encoder = parameters(mult[0].network), parameters(mult[0].network.mult.backbone)
    maps = [
        parameters(part)
        for attention in comparison("inference").attention()["shared attention alone, one map for all tasks"][0].modules
        for part in (attention.tasks["normals"].q_proj, attention.tasks["normals"].k_proj, attention.tasks["normals"].position_bias)
    ]
    assert sum(parameters(step.network) for step in singles) - whole == (len(TASKS) - 1) * (encoder + sum(maps))
    assert network.count_products(singles)[0] > network.count_products(mult)[0]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_fewer_tasks_of_a_network_cost_less(network, comparison, mode):
    cases = comparison(mode)
    counts = [network.count_products(steps)[0] for steps in (only(cases.mult()), only(cases.subsets()), only(cases.no_sharing()))]
    assert counts[1] < counts[0] < counts[2], "one of three tasks, all three, and all three with a map each"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_one_map_per_task_gives_the_same_results_with_more_arithmetic(network, comparison, mode):
    """The straightforward implementation, which computes each shared map again for each decoder."""
    cases = comparison(mode)
    (shared,), (again,) = only(cases.mult()), only(cases.per_task())
    batch = cases.batch
    with torch.no_grad():
        expected, found = (step.network.eval()(batch.images, labels=batch.labels) for step in (shared, again))
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-5)
    for task in TASKS:
        torch.testing.assert_close(found.predictions[task], expected.predictions[task], rtol=1e-5, atol=1e-5)
    assert network.count_products([again])[0] > network.count_products([shared])[0]


def test_one_map_per_task_keeps_more_memory_for_the_backward_pass(comparison):
    def saved_bytes(step):
        saved = {}

        def note(tensor):
            saved[tensor.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            step.network(step.images, tasks=step.tasks)
        return sum(tensor.nbytes for tensor in saved.values())

    cases = comparison("training")
    (shared,), (again,) = only(cases.mult()), only(cases.per_task())
    windows, heads, tokens = 1, [8, 4, 2, 1], 64  # of the stages of this network
    a_map = sum(windows * each * tokens**2 * 4 for each in heads)
    assert saved_bytes(again) - saved_bytes(shared) >= (len(TASKS) - 1) * a_map


def test_gradient_checkpointing_takes_less_memory(network, comparison):
    cases = comparison("training")
    (plain,), (recomputed,) = only(cases.mult()), only(cases.checkpointing())
    peaks = []
    for step in (plain, recomputed):
        step()  # which creates AdamW's moments
        peaks.append(network.profiled([step], "cpu")[1])
    assert peaks[1] < peaks[0]


def test_fused_attention_is_counted_as_if_it_were_written_out(network, comparison):
    """Premise: torch's counter does not see the CPU's fused kernel."""
    (step,) = only(comparison("inference").mult())
    assert step.network.config._attn_implementation == "sdpa"
    with FlopCounterMode(display=False) as counter:
        step()
    seen = network.count_products([step])[0]
    assert counter.get_total_flops() < seen
    assert step.network.config._attn_implementation == step.network.config.backbone_config._attn_implementation == "sdpa", "set back"
    step.network.set_attn_implementation("eager")
    assert network.count_products([step])[0] == seen


def test_a_training_step_counts_three_times_the_weights_in_memory(network, comparison):
    (step,) = only(comparison("training").mult())
    step()
    parameters, buffers = list(step.network.parameters()), list(step.network.buffers())
    counters = 4 * len(parameters)  # how many steps a weight has seen, one float32 each
    assert network.tensor_bytes(step.kept() * 2) == 3 * network.tensor_bytes(parameters) + network.tensor_bytes(buffers) + counters


def test_peak_memory_is_the_largest_sum_of_live_tensors(network):
    def action():
        four = torch.empty(1024, 1024)  # MiB
        eight = [four, torch.empty(1024, 1024)]
        del four, eight
        return torch.empty(512, 1024)

    share, peak = network.profiled([Run(action)], "cpu")
    assert peak == 8
    assert share == 0, "nothing was multiplied"


def test_the_share_of_products_is_that_of_their_time(network):
    square = torch.ones(256, 256)
    share, _ = network.profiled([Run(lambda: square @ square), Run(lambda: square.exp())], "cpu")
    assert 0 < share < 1


def test_a_case_is_timed_in_turns_with_the_others(network, arguments):
    order = []
    cases = {name: [Run(lambda name=name: order.append(name))] for name in ("one", "other")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "profiled", lambda steps, device: (0.5, 1.0))
        costs, limit = network.measure(cases, network.BenchmarkArguments(**{**vars(arguments), "repeats": 3}))
    assert order[-6:] == ["one", "other"] * 3
    assert [len(cost.seconds) for cost in costs.values()] == [3, 3]
    assert limit > 0


def test_isolated_products_are_timed_once_per_kind_and_multiplied_by_their_number(network):
    class OneSecond(network.Clock):
        def seconds(self, action):
            """Whatever it takes."""
            action()
            return 1.0

    layer, square = nn.Linear(4, 4), torch.ones(4, 4)
    _, calls = network.count_products([Run(lambda: layer(layer(square))), Run(lambda: torch.bmm(torch.ones(2, 3, 3), torch.ones(2, 3, 3)))])
    assert network.seconds_alone(calls, OneSecond("cpu", 1)) == 3


@pytest.mark.parametrize("tensor", [torch.ones(4, 6).t(), torch.ones(1, 3).expand(5, 3), torch.ones(2, 2, dtype=torch.bfloat16)])
def test_a_product_is_repeated_with_the_same_memory_layout(network, tensor):
    made = network.Layout.of(tensor).random("cpu")
    assert (made.shape, made.stride(), made.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)


def test_median_and_spread_are_those_of_the_seconds(network):
    cost = network.Cost(1, 1, 1.0, 1.0, 1.0, 1.0, seconds=[4.0, 1.0, 2.0, 3.0, 100.0])
    assert cost.median == 3
    assert cost.spread == pytest.approx((4 - 2) / 2 / 3), "half of what lies between the quartiles 2 and 4"


@pytest.mark.slow
def test_the_command_prints_and_writes_a_table_for_each_batch_size(network, tmp_path, capsys):
    argv = ["--image_size", "32", "--modes", "inference", "--batch_sizes", "1", "2", "--tasks", "depth", "normals", "--repeats", "2"]
    network.main([*argv, "--cases", "mult", "networks", "--output", str(tmp_path / "costs.json")])
    printed = unpadded(capsys.readouterr().out)
    assert "small at 32 x 32 pixels, float32, sdpa, median of 2" in printed
    assert re.findall(r"^(\w+), batch of (\d)", printed, re.MULTILINE) == [("inference", "1"), ("inference", "2")]
    written = json.loads((tmp_path / "costs.json").read_text())
    assert set(written) == {"arguments", "processor", "device", "versions", "tables"}
    for table in written["tables"]:
        assert list(table["costs"]) == ["MulT, 2 tasks", "2 networks of one task"]
        mult, networks = table["costs"].values()
        assert re.search(rf"^\| MulT, 2 tasks \| .* \| {mult['parameters'] / 1e6:.2f} \| {mult['peak_mib']:.0f} \|", printed, re.MULTILINE)
        assert mult["median_seconds"] == statistics.median(mult["seconds"])
        assert table["mult_of_networks"]["arithmetic"] == mult["flops"] / networks["flops"] < 1
    assert printed.count("MulT, 2 tasks against 2 networks of one task: ") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "modes"),
    [
        (["--dtype", "bfloat16"], ["inference", "training"]),
        (["--float32_matmul", "medium", "--attention", "eager", "--modes", "inference"], ["inference"]),
        pytest.param(["--torch_compile", "eager", "--modes", "inference"], ["inference"], marks=pytest.mark.nightly),
    ],
)
def test_precision_attention_and_compiler_are_chosen_by_flags(network, capsys, argv, modes):
    network.main([*argv, "--image_size", "32", "--batch_sizes", "1", "--tasks", "depth", "--repeats", "1", "--cases", "mult"])
    torch.set_float32_matmul_precision("highest")
    torch._dynamo.reset()
    printed = unpadded(capsys.readouterr().out)
    assert re.findall(r"^(\w+), batch of 1", printed, re.MULTILINE) == modes
    assert len(re.findall(r"^\| MulT, 1 tasks \| [\d.]+ ", printed, re.MULTILINE)) == len(modes)


def test_a_preset_is_built_with_the_requested_decoder(network):
    network = network.build(network.BenchmarkArguments(preset="swin-tiny"), ["depth"], decoder="mtan")
    assert network.config.decoder_type == "mtan"
    assert network.config.backbone_config.depths == [2, 2, 6, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cases": ["mult", "unet"]}, r"--cases is \['mult', 'unet'\]; choose at least one of mult, checkpointing, networks"),
        ({"modes": []}, r"--modes is \[\]; choose at least one of inference, training"),
        ({"batch_sizes": [4, 0]}, r"--batch_sizes is \[4, 0\]; give at least one number, each at least 1"),
        ({"batch_sizes": []}, r"--batch_sizes is \[\]"),
        ({"image_size": 31}, "--image_size is 31; it must be at least 32"),
        ({"repeats": 0}, "--repeats is 0; it must be at least 1"),
        ({"tasks": ["depht"]}, "depht"),
    ],
)
def test_invalid_measurements_are_refused(network, options, message):
    with pytest.raises(ValueError, match=message):
        network.BenchmarkArguments(**options)
