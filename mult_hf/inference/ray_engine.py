"""Predict on Ray: the run of one process, divided among many processes.

Images that an earlier run predicted are excluded first. Each of the others is predicted, whether or not its files exist by then: if a lost
process had already predicted an image, it is predicted again and counted once.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from mult_hf.data.ray_cluster import Cluster, map_on_ray

from .output import PredictionDirectory
from .run import Outcomes, PredictionRun, total_outcomes
from .sources import DivisibleSource, InputImage

BATCHES_PER_TASK = 16
"""Batches per Ray task: enough to group images by size, but few to repeat if a process is lost."""

FILES_PER_CHECK = 1000
"""Images per Ray task that checks which images were predicted before."""


class RayWorkers(NamedTuple):
    """The processes that predict.

    Args:
        processes: number of processes.
        num_cpus: CPU cores per process.
        num_gpus: GPUs per process.
    """

    processes: int
    num_cpus: float
    num_gpus: float

    @classmethod
    def of_cluster(cls, cluster: Cluster, count: int | None, threads: int | None) -> "RayWorkers":
        """Choose one process per GPU or, without GPUs, as many processes as the CPU cores allow.

        Args:
            cluster: the cluster.
            count: number of processes to use instead.
            threads: CPU threads per process; 1 by default.
        """
        num_cpus = threads or 1
        if cluster.gpus:
            return cls(count or cluster.gpus, num_cpus, 1)
        return cls(count or max(1, cluster.cpus // num_cpus), num_cpus, 0)


class PredictionWorker:
    """Predicts parts of the images in one process.

    Args:
        make_run: makes the run, which loads the model.
        source: the source that the parts belong to.
    """

    def __init__(self, make_run: Callable[[], PredictionRun], source: DivisibleSource) -> None:
        self.run, self.source = make_run(), source

    def __call__(self, parts: list[Any]) -> Outcomes:
        """Predict these parts."""
        images = [part for part in parts if self.source.is_image(part)]
        videos = [part for part in parts if not self.source.is_image(part)]  # some of their frames may have been predicted before
        runs = [(replace(self.run, skip_predicted=False), images), (self.run, videos)]
        return total_outcomes(run(self.source.part(of_kind)) for run, of_kind in runs if of_kind)


class _Check:
    """Finds the parts that need not be predicted again."""

    def __init__(self, directory: PredictionDirectory, source: DivisibleSource) -> None:
        self.directory, self.source = directory, source

    def __call__(self, parts: list[Any]) -> list[Any]:
        return [part for part in parts if self.source.is_image(part) and self._is_predicted(part)]

    def _is_predicted(self, part: Any) -> bool:
        try:
            (image,) = self.source.part([part])
            return isinstance(image, InputImage) and self.directory.is_predicted(image.name, image.stamp, image.digest)
        except Exception:  # the run raises it again, and reports it
            return False


def predict_on_ray(
    make_run: Callable[[], PredictionRun], source: DivisibleSource, directory: PredictionDirectory, workers: RayWorkers, batch_size: int
) -> Outcomes:
    """Predict all images of a source, and show a progress bar.

    Args:
        make_run: called in each process to make its run.
        source: all images.
        directory: the output directory, which all processes must be able to write to.
        workers: number and resources of the processes.
        batch_size: images per batch.

    Raises:
        OSError: if the disk is full, or a file cannot be written.
    """
    template = source.part([])
    resources: dict[str, Any] = {"workers": workers.processes, "num_cpus": workers.num_cpus}
    parts = source.parts()
    before: set[Any] = set()
    if directory.path("sources").is_dir():
        check = partial(_Check, directory, template)
        before = {part for found in map_on_ray(check, parts, items_per_task=FILES_PER_CHECK, **resources) for part in found}
    left = [part for part in parts if part not in before]
    size = min(BATCHES_PER_TASK * batch_size, max(1, len(left) // (4 * workers.processes)))
    work = partial(PredictionWorker, make_run, template)
    results = map_on_ray(work, left, items_per_task=size, num_gpus=workers.num_gpus, **resources) if left else iter(())
    return total_outcomes([Outcomes(skipped=len(before)), *_shown(results, len(source) - len(before))])


def _shown(results: Iterator[Outcomes], total: int) -> Iterator[Outcomes]:
    with tqdm(total=total, desc="predicting", unit="image") as bar:
        for outcomes in results:
            bar.update(outcomes.done + outcomes.skipped + len(outcomes.failed))
            yield outcomes


__all__ = ["PredictionWorker", "RayWorkers", "predict_on_ray"]
