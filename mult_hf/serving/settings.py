"""Settings of a server, which its processes share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mult_hf.inference.loading import load_processor, load_whole_model
from mult_hf.model.entry_fields import refusal
from mult_hf.model.image_processing_mult import MulTImageProcessor
from mult_hf.model.tasks import TaskSpec, resolve_tasks

from .app import ServiceSettings


@dataclass(frozen=True)
class ServerSettings:
    """A model to serve, and the address, batches and processes to serve it with.

    Args:
        model: directory or Hub id.
        entries: entries of all its tasks.
        service: limits and sizes.
        host: address to listen on.
        port: port to listen on.
        tasks: names of the offered tasks; all by default.
        batch_size: largest number of images per batch.
        batch_wait: seconds that an image waits for others to join its batch, while the model is idle.
        copies: number of copies of the model, each in its own process; only with Ray.
        threads: CPU threads of each copy.
        field_of_view: degrees along the longer side of images whose focal length is not known; by default what the model assumes.
    """

    model: str
    entries: Sequence[Mapping[str, Any]]
    service: ServiceSettings
    host: str = "127.0.0.1"
    port: int = 8000
    tasks: Sequence[str] | None = None
    batch_size: int = 8
    batch_wait: float = 0.005
    copies: int = 1
    threads: int = 1
    field_of_view: float | None = None

    def processor(self) -> MulTImageProcessor:
        """The image processor of the model."""
        return load_processor(self.model, tasks=list(self.entries), assumed_field_of_view=self.field_of_view)

    def offered(self) -> dict[str, TaskSpec]:
        """Entries of the offered tasks by name."""
        specs = resolve_tasks(list(self.entries))
        return {task: spec for task, spec in specs.items() if self.tasks is None or task in self.tasks}


def model_tasks(model: str, tasks: Sequence[str] | None) -> dict[str, TaskSpec]:
    """Entries of all tasks of a model, after checking that it can be loaded and has the requested ones.

    Raises:
        ValueError: if a requested task is missing, or the model is damaged.
        OSError: if there is no such model.
    """
    config = load_whole_model(model).config
    specs = config.task_specs
    if missing := [task for task in tasks or [] if task not in specs]:
        raise refusal(f"--tasks has {missing}; {model} has {list(specs)}")
    load_processor(model, config, [spec for task, spec in specs.items() if tasks is None or task in tasks])
    return specs


__all__ = ["ServerSettings", "model_tasks"]
