"""Upload the results of a run to the Hub."""

from pathlib import Path

from huggingface_hub import HfApi


def upload(directory: Path, repo_id: str) -> str:
    """Upload the results of a run to a Hub repository; returns its URL.

    Its checkpoints and hidden files, such as `.env`, are left out. Other files of the directory belong to the results.
    """
    return HfApi().upload_folder(repo_id=repo_id, folder_path=directory, ignore_patterns=["checkpoints/*", "best/*", ".*", "*/.*"])


__all__ = ["upload"]
