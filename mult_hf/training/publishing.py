"""Upload the results of a run to the Hub."""

from pathlib import Path

from huggingface_hub import HfApi


def upload(directory: Path, repo_id: str) -> str:
    """Upload the results of a run, without its checkpoints, to a Hub repository; returns its URL."""
    return HfApi().upload_folder(
        repo_id=repo_id, folder_path=directory, ignore_patterns=["checkpoints/*", "best/*", ".partial/*", ".run.*"]
    )


__all__ = ["upload"]
