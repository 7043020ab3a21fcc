"""Processors are counted as this process may use them: by its affinity and by the quotas of its control groups."""

import os
import platform
import subprocess
import sys

import pytest

from mult_hf.data import cores
from mult_hf.data.cores import available_cores, quotas, threads_per_process

HOST = 64


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Make a machine of 64 processors with these files of control groups."""
    monkeypatch.setattr(os, "cpu_count", lambda: HOST)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(HOST)), raising=False)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(cores, "OWN_CGROUPS", tmp_path / "own")

    def make(own, **files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return make


def test_without_a_quota_all_processors_are_available(container):
    container("0::/\n", **{"cpu.max": "max 100000\n"})
    assert available_cores() == HOST


def test_a_quota_of_version_2_limits_the_processors(container):
    container("0::/\n", **{"cpu.max": "200000 100000\n"})
    assert available_cores() == 2


def test_a_quota_of_version_1_limits_the_processors(container):
    files = {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    container("4:memory:/x\n3:cpu,cpuacct:/\n0::/\n", **files)
    assert available_cores() == 3
    container("3:cpu,cpuacct:/\n", **{**files, "cpu/cpu.cfs_quota_us": "-1\n"})
    assert available_cores() == HOST


def test_the_smallest_quota_of_a_group_and_those_around_it_counts(container):
    container("0::/outer/inner\n", **{"outer/inner/cpu.max": "max 100000\n", "outer/cpu.max": "400000 100000\n"})
    assert available_cores() == 4
    container("0::/outer/inner\n", **{"outer/inner/cpu.max": "150000 100000\n"})
    assert available_cores() == 2, "one and a half"


def test_a_group_that_is_not_mounted_in_the_container_is_passed_over(container):
    container("3:cpu:/docker/abc\n", **{"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"})
    assert available_cores() == 1


@pytest.mark.parametrize("text", ["", "max\n", "two 100000\n"])
def test_a_file_that_is_not_understood_is_passed_over(container, text):
    container("0::/\n", **{"cpu.max": text})
    assert available_cores() == HOST


def test_an_affinity_below_the_quota_decides(container, monkeypatch):
    container("0::/\n", **{"cpu.max": "800000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert available_cores() == 2


def test_systems_without_affinity_and_control_groups_have_their_processors(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(cores, "OWN_CGROUPS", tmp_path / "missing")
    assert list(quotas(tmp_path, tmp_path / "missing")) == []
    assert available_cores() == 6


def test_processes_share_the_processors(monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 8)
    assert [threads_per_process(None, processes) for processes in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert threads_per_process(5, 4) == 5


# --- memory ---

FAULTS = """
import resource
from mult_hf.data.cores import keep_freed_memory

if {keeps}:
    keep_freed_memory()
for step in range(12):
    if step == 2:  # what the first steps allocate is new in any case
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(8 * 2**20) for _ in range(8)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.nightly
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_kept_for_the_next_step():
    """Ten steps that allocate and free 64 MiB; a page fault is 4 KiB that the system clears."""

    def page_faults(keeps, **environment):
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        command = [sys.executable, "-c", FAULTS.format(keeps=keeps)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env={**own, **environment}).stdout)

    assert page_faults(False) > 10 * 64 * 2**20 / 4096 / 2, "premise: glibc returns it"
    assert page_faults(True) < 1000
    assert page_faults(True, MALLOC_TRIM_THRESHOLD_="1000000") > 10_000, "a user's own setting stays"
