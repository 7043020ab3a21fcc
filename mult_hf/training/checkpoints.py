"""Atomic checkpoints: an interrupted save leaves nothing that looks like a checkpoint.

A checkpoint is written to `checkpoint-N.partial` and renamed once all its files are on disk; renaming a directory is atomic.
An old checkpoint is renamed before it is deleted, so that an interrupted deletion leaves nothing that looks like a checkpoint either.
"""

import errno
import filecmp
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError
from transformers.utils import CONFIG_NAME

from mult_hf.data.files import sync_to_disk

BEST = "best"
"""Directory of the model of the best evaluation, in that of a run."""

_NAME = re.compile(r"checkpoint-(\d+)")
_PARTIAL = ".partial"
_REPLACED = ".replaced"


def checkpoint_step(checkpoint: Path) -> int:
    """The step at which a checkpoint was taken.

    Raises:
        ValueError: if the directory's name is not that of a complete checkpoint.
    """
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} does not have a checkpoint's name; expected a directory such as checkpoint-00000100")
    return int(match[1])


def list_checkpoints(directory: Path) -> list[Path]:
    """Complete checkpoints in a directory, oldest first; none if it does not exist."""
    found = [path for path in directory.glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=checkpoint_step)


def find_checkpoint(directory: Path, which: str) -> Path | None:
    """Find the checkpoint to resume from.

    Args:
        directory: directory of the run's checkpoints.
        which: `"latest"`, or the path of a checkpoint.

    Returns:
        Path of the checkpoint; None for `"latest"` if there is none yet, so that one command both starts and resumes.

    Raises:
        ValueError: if the path does not have a complete checkpoint's name, or does not exist.
    """
    if which == "latest":
        restore_replaced(directory)
        return next(reversed(list_checkpoints(directory)), None)
    checkpoint = Path(which)
    checkpoint_step(checkpoint)
    if not checkpoint.is_dir():
        raise ValueError(
            f"{checkpoint} does not exist; complete checkpoints are {[str(path) for path in list_checkpoints(checkpoint.parent)]}"
        )
    return checkpoint


def check_new_run(directory: Path, *, overwrite: bool) -> None:
    """Refuse to start a run where there are checkpoints of another, unless they may be overwritten.

    Raises:
        ValueError: naming the last one.
    """
    restore_replaced(directory)
    earlier = list_checkpoints(directory)
    if earlier and not overwrite:
        raise ValueError(
            f"{directory} has checkpoints of an earlier run, the last at step {checkpoint_step(earlier[-1])}; continue with --resume "
            "latest, give another --output_dir, or delete them with --overwrite"
        )


def clear_for_new_run(directory: Path, *, overwrite: bool) -> None:
    """Remove an earlier run's checkpoints, if they may be overwritten.

    Raises:
        ValueError: as [`check_new_run`].
    """
    check_new_run(directory, overwrite=overwrite)
    shutil.rmtree(directory, ignore_errors=True)


def save_checkpoint(accelerator: Accelerator, save_state: Callable[[Path], None], directory: Path, step: int, keep: int) -> Path:
    """Save the state of a run; call it in all processes.

    Args:
        accelerator: the processes.
        save_state: writes the state to an existing directory, in all processes.
        directory: directory of the run's checkpoints.
        step: number of optimizer steps taken.
        keep: number of newest checkpoints to keep; at least 1.

    Returns:
        `directory/checkpoint-STEP`, which exists only once it is complete.

    Raises:
        ValueError: if `keep` is below 1.
        OSError: if the checkpoint cannot be written; earlier ones are kept, and the message names the newest.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; it must be at least 1")
    final = directory / f"checkpoint-{step:08d}"
    partial = final.with_name(final.name + _PARTIAL)
    with describing_write_errors(final, directory):
        if accelerator.is_main_process:
            remove_partial(directory)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        save_state(partial)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            publish(partial, final)
    if accelerator.is_main_process:
        for old in [path for path in list_checkpoints(directory)[:-keep] if path != final]:  # newer ones exist if an older one was resumed
            remove(old)
    accelerator.wait_for_everyone()
    return final


@contextmanager
def describing_write_errors(target: Path, checkpoints: Path) -> Iterator[None]:
    """Convert the errors of file writers to an error that names the target, the free space and the newest checkpoint.

    Args:
        target: file or directory that the block writes.
        checkpoints: directory of the run's checkpoints.

    Raises:
        OSError: if the block raises an `OSError`, or the `SafetensorError` or `RuntimeError` that safetensors and torch raise instead.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        place = next(folder for folder in [target, *target.parents] if folder.exists())
        free, found = shutil.disk_usage(place).free / 2**20, list_checkpoints(checkpoints)
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"{target} could not be written; {free:.0f} MiB are free there; newest complete checkpoint: "
            f"{found[-1] if found else 'none yet'}; free some space and continue with --resume latest: {error}",
        ) from error


def publish(partial: Path, final: Path) -> None:
    """Rename a finished directory to its final name, and delete the older one of that name, if there is one, only afterwards.

    The older one may be the only other checkpoint. After an interruption between the two renames, [`restore_replaced`] restores it.
    """
    _give_usual_permissions(partial)
    for path in [*partial.rglob("*"), partial]:
        sync_to_disk(path)
    replaced = final.with_name(final.name + _REPLACED)
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    sync_to_disk(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def restore_replaced(directory: Path) -> None:
    """Restore the names of complete checkpoints whose replacement was interrupted; any number of processes may call it at once."""
    for path in directory.glob(f"*{_REPLACED}"):
        final = path.with_name(path.name.removesuffix(_REPLACED))
        if not final.exists():
            with suppress(FileNotFoundError):  # another process was faster
                path.rename(final)


def replace_files(partial: Path, directory: Path) -> None:
    """Move finished files into a directory that may contain older ones; at any time, each file there is complete, either old or new.

    Old weights with a new configuration would predict wrong numbers. So where other files than the weights change, the configuration,
    without which no directory is a model, is removed first and comes last: after an interruption such a directory cannot be loaded.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _give_usual_permissions(partial)
    files = sorted(partial.iterdir(), key=lambda path: (path.name == CONFIG_NAME, path.name))
    for path in files:
        sync_to_disk(path)
    if any(_differs(path, directory / path.name) for path in files if path.suffix == ".json"):
        (directory / CONFIG_NAME).unlink(missing_ok=True)
        sync_to_disk(directory)
    for path in files:
        path.replace(directory / path.name)
    sync_to_disk(directory)
    partial.rmdir()


def _differs(new: Path, old: Path) -> bool:
    """Whether a file has other contents than an older one, or there is no older one."""
    return not old.is_file() or not filecmp.cmp(new, old, shallow=False)


def _give_usual_permissions(directory: Path) -> None:
    """Give weights the permissions of a new file here; some releases of safetensors (0.8) let only their owner read them."""
    weights = [*directory.rglob("*.safetensors")]
    if not weights:
        return
    new = directory / ".permissions"
    with suppress(OSError, NotImplementedError):  # some file systems have no permissions, and these matter less than the weights
        try:
            new.touch()
            mode = new.stat().st_mode & 0o777
            for path in weights:
                path.chmod(mode)
        finally:
            new.unlink(missing_ok=True)


def remove(directory: Path) -> None:
    """Delete a directory in such a way that no incomplete directory ever has its name."""
    doomed = directory.with_name(f"{directory.name}.old{_PARTIAL}")
    shutil.rmtree(doomed, ignore_errors=True)
    directory.rename(doomed)
    shutil.rmtree(doomed)


def remove_partial(directory: Path) -> None:
    """Delete the remains of interrupted saves."""
    restore_replaced(directory)
    for path in [*directory.glob(f"*{_PARTIAL}"), *directory.glob(f"*{_REPLACED}")]:
        shutil.rmtree(path)


__all__ = [
    "BEST",
    "checkpoint_step",
    "check_new_run",
    "clear_for_new_run",
    "describing_write_errors",
    "find_checkpoint",
    "list_checkpoints",
    "publish",
    "remove",
    "remove_partial",
    "replace_files",
    "restore_replaced",
    "save_checkpoint",
]
