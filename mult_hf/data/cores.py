"""What this process may use of the machine: CPU cores, and freed memory."""

import ctypes
import math
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux mounts control groups."""

OWN_CGROUPS = Path("/proc/self/cgroup")
"""Linux's list of the control groups of this process."""

_MALLOC_THRESHOLDS = {
    -3: 32 * 2**20,  # M_MMAP_THRESHOLD: larger blocks are returned as soon as they are freed; this is the largest value that glibc takes
    -1: 2**30,  # M_TRIM_THRESHOLD: free bytes at the end of the heap above which they are returned
}
"""Values of glibc's parameters, by their numbers in `malloc.h`."""


def available_cores() -> int:
    """Number of CPU cores that this process may use, at least 1.

    These are the cores that its affinity allows (`taskset`, a batch system), or fewer if its container has a quota of CPU time: a container
    with 2 cores on a machine with 64 gets 2. A fraction of a core counts as one.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, quotas(CGROUPS, OWN_CGROUPS))]))


def threads_per_process(requested: int | None, processes: int) -> int:
    """Threads of one process: as many as requested, or an equal share of the available CPU cores.

    Args:
        requested: number of threads, or None.
        processes: number of processes on this machine.
    """
    return requested or max(1, available_cores() // processes)


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for this process, in place of returning it to the system.

    A network allocates and frees the same large tensors in every step, and in training also its gradients. glibc returns them to the
    system each time, which then clears every page again (docs/performance.md has the times). Applies to tensors of up to
    32 MiB, glibc's limit. It has no effect with other C libraries and allocators, and none if the environment sets
    glibc's thresholds.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    for parameter, value in _MALLOC_THRESHOLDS.items():
        ctypes.CDLL(None).mallopt(parameter, value)


def quotas(mounted: Path, own: Path) -> Iterator[float]:
    """CPU quotas, in cores, of the control groups of this process and of their parent groups.

    Args:
        mounted: directory of all control groups.
        own: file that lists those of this process, as `hierarchy:controllers:path` (see `man 7 cgroups`).
    """
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2 has one hierarchy
                yield from _quotas_up_from(mounted, path, "cpu.max")
            elif "cpu" in controllers.split(","):
                yield from _quotas_up_from(mounted / "cpu", path, "cpu.cfs_quota_us", "cpu.cfs_period_us")


def _quotas_up_from(root: Path, path: str, *files: str) -> Iterator[float]:
    """Quotas of a group and its parents; inside a container, groups outside of it are listed but not mounted."""
    relative = Path(path.lstrip("/"))
    for group in (relative, *relative.parents):
        with suppress(OSError, ValueError):
            quota, period = (word for file in files for word in (root / group / file).read_text().split())
            if quota != "max" and int(quota) > 0:  # -1 in version 1: no limit
                yield int(quota) / int(period)


__all__ = ["available_cores", "keep_freed_memory", "threads_per_process"]
