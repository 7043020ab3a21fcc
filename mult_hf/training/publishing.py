"""Upload the results of a run to the Hub."""

from pathlib import Path

from mult_hf.data.hub import explaining_failed_uploads, upload_in_one_commit

from .checkpoints import BEST


def upload(directory: Path, repo_id: str) -> str:
    """Upload the results of a run to a Hub repository, in one commit.

    Its checkpoints and hidden files, such as `.env`, are left out. Other files of the directory belong to the results.

    Args:
        directory: the run's output directory.
        repo_id: id of the repository, which exists.

    Returns:
        The repository's URL.

    Raises:
        ConnectionError: if it fails; the repository is then as it was before.
    """
    remedy = f"the results are complete in {directory}; to upload them, run the same command with --resume latest, without --overwrite"
    with explaining_failed_uploads(repo_id, remedy):
        return upload_in_one_commit(directory, repo_id, ["checkpoints/*", f"{BEST}/*", ".*", "*/.*"])


__all__ = ["upload"]
