"""Proves that two nodes train like one process, and that a run continues on other processes after a node was lost.

Each node is a launcher with a process group of its own; they find each other on the loopback interface, as machines do by torchrun's
rendezvous on a network.
"""

import os
import random
import socket
import subprocess
import sys
import time

import pytest

from mult_hf.training.checkpoints import checkpoint_step, list_checkpoints
from support.processes import kill_all_of, sleep_unless
from support.training_runs import ROOT, TINY, assert_close_to, comparable_log, environment, train

# The checkpoint falls between two entries of the log, so that it holds sums of losses of both processes.
STEPS = "--max_steps 6 --save_steps 2 --logging_steps 3".split()

# Long enough to lose a node before the end: six steps take less than a second.
KILLED_STEPS = "--max_steps 40 --save_steps 2 --logging_steps 3 --learning_rate 1e-4".split()


@pytest.fixture(scope="module")
def one_process(tmp_path_factory, data):
    """Six steps of four images in one process, to compare with two nodes of one process with two images each."""
    return train(tmp_path_factory.mktemp("one"), "--dataset", data, "--batch_size", 4, *STEPS)


@pytest.fixture
def port():
    """A free port for the rendezvous."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def node(rank, port, configuration, output_dir, data, *flags):
    """The launcher of one node, which starts the node's process."""
    machines = ["--num_machines", "2", "--machine_rank", str(rank), "--num_processes", "2"]
    meeting = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port), "--rdzv_backend", "c10d", "--max_restarts", "3"]
    config = ["--config_file", str(ROOT / f"examples/accelerate/{configuration}.yaml")]
    run = [str(ROOT / "examples/train.py"), *TINY, "--dataset", str(data), "--output_dir", str(output_dir), "--batch_size", "2"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *config, *machines, *meeting, *run, *map(str, flags)]
    # Gloo would otherwise look for an address of the host's name. The last one is needed to replace a lost node (docs/training.md).
    settings = {
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCHELASTIC_ERROR_FILE": f"{output_dir}.error{rank}",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    with open(f"{output_dir}.node{rank}.log", "ab") as messages:
        return subprocess.Popen(command, env=environment(**settings), start_new_session=True, stdout=messages, stderr=subprocess.STDOUT)


def is_open(port):
    """Whether a node waits for others at this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def two_nodes(nodes, port, configuration, output_dir, data, *flags):
    """Start two nodes, the one of rank 0 first: on one address, the first one opens the port, and Accelerate lets only rank 0 do so."""
    nodes.append(node(0, port, configuration, output_dir, data, *flags))
    wait_for(lambda: is_open(port), nodes, output_dir)
    nodes.append(node(1, port, configuration, output_dir, data, *flags))


def messages(output_dir):
    return "".join(path.read_text()[-3000:] for path in sorted(output_dir.parent.glob(f"{output_dir.name}.node*.log")))


def wait_for(reached, nodes, output_dir, seconds=240):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, messages(output_dir)
        assert all(each.poll() in (None, 0) for each in nodes), messages(output_dir)
        time.sleep(0.05)


@pytest.fixture
def end_nodes():
    """Nodes that a failed test would leave behind."""
    started = []
    yield started
    for each in started:
        kill_all_of(each)


@pytest.mark.slow
@pytest.mark.nightly  # tests/training/test_resume.py has two processes of one node, and README's command a launcher
@pytest.mark.parametrize("configuration", ["nodes_ddp_cpu", "nodes_fsdp2_cpu"])
def test_two_nodes_train_like_one_process_and_one_process_continues_them(tmp_path, data, one_process, port, end_nodes, configuration):
    """The checkpoint of a sharded model is read by a single process, which ends with the same weights."""
    output_dir = tmp_path / "nodes"
    two_nodes(end_nodes, port, configuration, output_dir, data, *STEPS)
    wait_for(lambda: all(each.poll() == 0 for each in end_nodes), end_nodes, output_dir)
    assert_close_to(one_process, output_dir)
    newest = list_checkpoints(output_dir / "checkpoints")[-1]
    newest.rename(newest.with_suffix(".partial"))  # as if the run had been killed in its last save
    train(output_dir, "--dataset", data, "--batch_size", 4, *STEPS, "--resume", "latest")
    assert_close_to(one_process, output_dir)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("configuration", ["nodes_ddp_cpu", "nodes_fsdp2_cpu"])
def test_a_killed_node_is_replaced_and_the_run_ends_with_the_same_weights(tmp_path, data, port, end_nodes, configuration):
    """The other node's launcher starts its process again when a new node joins; both continue from the newest checkpoint."""
    through = train(tmp_path / "one", "--dataset", data, "--batch_size", 4, *KILLED_STEPS)
    output_dir = tmp_path / "nodes"
    flags = [*KILLED_STEPS, "--resume", "latest"]
    two_nodes(end_nodes, port, configuration, output_dir, data, *flags)
    wait_for(lambda: list_checkpoints(output_dir / "checkpoints"), end_nodes, output_dir)
    seconds = random.Random(os.environ.get("MULT_HF_KILL_SEED", "0")).uniform(0, 1.5)
    sleep_unless(lambda: last_step(output_dir) >= 20, seconds)
    assert kill_all_of(end_nodes[1]) > 1, "premise: the node's process was killed with its launcher"
    lost_at = last_step(output_dir)
    assert lost_at < 40, "premise: the run had not ended"
    nodes = [end_nodes[0], node(1, port, configuration, output_dir, data, *flags)]
    end_nodes.append(nodes[1])
    wait_for(lambda: all(each.poll() == 0 for each in nodes), nodes, output_dir)
    assert "resuming from" in messages(output_dir)
    print(f"{configuration}: node 1 killed at checkpoint {lost_at}, ended at step {last_step(output_dir)}")
    assert_close_to(through, output_dir)
    assert [entry["step"] for entry in comparable_log(output_dir)] == [entry["step"] for entry in comparable_log(through)]


def last_step(output_dir):
    """The step of the newest checkpoint."""
    return checkpoint_step(list_checkpoints(output_dir / "checkpoints")[-1])
