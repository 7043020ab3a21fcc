"""Ray: connect to a cluster, and apply a worker to items on it."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

OBJECT_STORE_BYTES = 100_000_000
"""Shared memory of a cluster that is started here. Items are names and numbers; results are the rows of a few images."""

RESULT = "result"

MAX_TASKS = 10_000
"""Largest number of Ray tasks per run, because Ray keeps a few kilobytes for each; longer runs have more items per task."""


class Cluster(NamedTuple):
    """A Ray cluster.

    Args:
        cpus: number of its CPU cores.
        gpus: number of its GPUs.
        is_ours: whether it was started here, and ends with the `with` block.
    """

    cpus: int
    gpus: int
    is_ours: bool = False


def import_ray(extra: str, purpose: str) -> Any:
    """Import Ray, without its usage reports.

    Args:
        extra: the extra that installs it.
        purpose: what needs it, for the message.

    Raises:
        ImportError: if it is not installed; the message names the extra.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its developers
    try:
        import ray
    except ImportError as error:
        raise ImportError(f'{purpose} needs Ray ({error}); install it with: pip install "mult-hf[{extra}]"') from error
    return ray


@contextmanager
def ray_cluster(
    address: str | None, num_cpus: int, purpose: str, extra: str = "ray", object_store_bytes: int = OBJECT_STORE_BYTES
) -> Iterator[Cluster]:
    """Connect to a cluster for the duration of a `with` block.

    Args:
        address: address of a running cluster, such as `auto`; by default that of the environment variable `RAY_ADDRESS`, or else a
            cluster of this machine that ends with the block. A connection that exists already is used, and kept.
        num_cpus: CPU cores of a cluster that is started here.
        purpose: what needs Ray, for messages.
        extra: the extra that installs Ray.
        object_store_bytes: shared memory of a cluster that is started here.

    Raises:
        ImportError: if Ray is not installed.
        ConnectionError: an `OSError`, if there is no cluster at the address.
    """
    ray = import_ray(extra, purpose)
    address = address or os.environ.get("RAY_ADDRESS")
    is_ours = not ray.is_initialized()
    if is_ours:
        own = {"num_cpus": num_cpus, "object_store_memory": object_store_bytes, "include_dashboard": False}
        try:
            ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **({} if address else own))
        except (ConnectionError, ValueError) as error:
            if not address:
                raise
            raise ConnectionError(f"there is no Ray cluster at {address}: {error}; start one, or leave --ray_address out") from error
    try:
        resources = ray.cluster_resources()
        yield Cluster(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), is_ours and not address)
    finally:
        if is_ours:
            ray.shutdown()


@dataclass
class _Result:
    """A result or an error, which Ray Data keeps as an object; it would turn lists and dictionaries into Arrow's types."""

    value: Any = None
    error: Exception | None = None


class _Worker:
    """Adapts a worker to Ray Data, which passes columns."""

    def __init__(self, make: Callable[[], Callable[[list[Any]], Any]]) -> None:
        self.worker = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        try:
            result = _Result(self.worker(batch["item"].tolist()))
        except Exception as error:  # Ray Data would keep its text only
            result = _Result(error=error)
        return {RESULT: [result]}


def map_on_ray(
    make: Callable[[], Callable[[list[Any]], Any]],
    items: Sequence[Any],
    *,
    items_per_task: int,
    workers: int,
    num_cpus: float,
    num_gpus: float = 0,
    in_order: bool = False,
) -> Iterator[Any]:
    """Apply a worker to lists of items, and yield its results as they arrive.

    Ray repeats a task whose worker or node is lost, so each task yields exactly one result, even if workers fail.

    Args:
        make: makes a worker, which is called with a list of items; called once per process. What it is made of must be importable on
            all nodes.
        items: bytes or integers.
        items_per_task: number of items per call, see [`MAX_TASKS`]; what is repeated if a worker is lost.
        workers: number of processes.
        num_cpus: CPU cores per process.
        num_gpus: GPUs per process.
        in_order: whether results come in the order of the items.

    Raises:
        Exception: what the worker raises.
    """
    import ray

    tasks = min(MAX_TASKS, -(-len(items) // items_per_task))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # commands show their own
    context.execution_options.preserve_order = in_order
    dataset = ray.data.from_items([{"item": item} for item in items], override_num_blocks=tasks).map_batches(
        _Worker,
        fn_constructor_args=(make,),
        batch_size=None,  # a whole block, which is one task
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    for row in dataset.iter_rows():
        if row[RESULT].error is not None:
            raise row[RESULT].error
        yield row[RESULT].value


__all__ = ["OBJECT_STORE_BYTES", "Cluster", "import_ray", "map_on_ray", "ray_cluster"]
