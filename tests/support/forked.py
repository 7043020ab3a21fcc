"""Commands in processes of their own that start at once: copies of a process that has imported torch and this package.

An interpreter that imports them anew computes for five seconds before its first step. That the commands also work from there, and from
Accelerate's and torch's launchers, is what tests/cli/test_main.py and tests/training/test_nodes.py test.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import time
from multiprocessing.connection import wait
from unittest.mock import patch

from support.training_runs import ROOT

if "forkserver" in multiprocessing.get_all_start_methods():
    CONTEXT = multiprocessing.get_context("forkserver")
    CONTEXT.set_forkserver_preload(["examples.train", "mult_hf.cli.main", "mult_hf.cli.predict", "mult_hf.cli.evaluate"])
else:  # on Windows
    CONTEXT = multiprocessing.get_context("spawn")

# Longer than the slowest end of a process whose peers have failed, on a busy machine.
GRACE = 60

SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


def _run(function, arguments, environment, output):
    if hasattr(os, "setsid"):  # not on Windows
        os.setsid()  # so that a process group can be killed, and not that of the tests
    os.environ |= environment
    with open(output, "ab", 0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdin = open(os.devnull)  # noqa: SIM115 (open until the process ends)
    sys.exit(function(*arguments))


def start(function, *arguments, output, environment=None):
    """Call a function in a process of its own, the leader of a new process group.

    Args:
        function: of a module that can be imported; its result is the exit status.
        arguments: of the function.
        output: path of the file that takes what the process prints.
        environment: variables, by name; those that are read when modules are imported have no effect.

    Returns:
        The `multiprocessing.Process`.
    """
    process = CONTEXT.Process(target=_run, args=(function, arguments, environment or {}, output))
    with patch.dict(os.environ, SETTINGS):  # of the process that is copied, which the first call starts
        process.start()
    return process


def _script(path, argv):
    sys.argv = [str(path), *argv]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def run_script(path, *argv, output):
    """Run a script as `python path argv...` does.

    Returns:
        What it printed, and its exit status.
    """
    process = start(_script, path, [*map(str, argv)], output=output)
    process.join()
    return output.read_text(), process.exitcode


def run_together(function, *arguments, output, processes=2, environment=None):
    """Call a function in several processes of one process group of torch.distributed, as a launcher does.

    Returns:
        What the processes printed, and their exit statuses. A process that has not ended GRACE seconds after another failed is killed: it
        would wait for the one that failed, as under a launcher.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **(environment or {})}
    started = []
    for rank in range(processes):
        own = {name: str(value) for name, value in {**group, "RANK": rank, "LOCAL_RANK": rank}.items()}
        started.append(start(function, *arguments, output=output, environment=own))
    waiting, deadline = {process.sentinel: process for process in started}, None
    while waiting:
        for sentinel in wait([*waiting], timeout=None if deadline is None else max(0, deadline - time.monotonic())):
            ended = waiting.pop(sentinel)
            ended.join()
            if ended.exitcode and deadline is None:
                deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() >= deadline:
            for other in waiting.values():
                other.kill()
            deadline = None
    return output.read_text(), [process.exitcode for process in started]
