"""Create repositories on the Hub, and upload models to them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import DEFAULT_IGNORE_PATTERNS, filter_repo_objects

from mult_hf.model.entry_fields import refusal


def create_repository(repo_id: str, *, repo_type: str = "model", private: bool = False) -> str:
    """Create a repository if it does not exist, and check that it can be written to, so that hours of work are not done in vain.

    Args:
        repo_id: its id on the Hub; without a namespace, it is the user's own.
        repo_type: `"model"` or `"dataset"`.
        private: whether it must be private; otherwise, a new one is what the account's settings say, and an existing one stays as it is.

    Returns:
        Its id with the namespace.

    Raises:
        ValueError: if it must be private, and exists as a public one.
        PermissionError: if the token may not write to it.
    """
    api = HfApi()
    try:
        repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True).repo_id
        is_public = private and not api.repo_info(repo_id, repo_type=repo_type).private
        if not is_public:
            api.auth_check(repo_id, repo_type=repo_type, write=True)  # `create_repo` is content with one that can only be read
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise
        raise PermissionError(
            f"{repo_id} cannot be written to with this token; log in with `hf auth login`, or set HF_TOKEN, with one that may: {error}"
        ) from error
    if is_public:
        raise refusal(f"{repo_id} is public on the Hub, and the upload must be private; make it private in its settings, or give another")
    return repo_id


@contextmanager
def explaining_failed_uploads(repo_id: str, remedy: str) -> Iterator[None]:
    """Say what an upload was, and what to do, when it fails.

    Raises:
        ConnectionError: in place of the errors of the Hub's client, which are of many kinds.
    """
    try:
        yield
    except (HTTPError, OSError, RuntimeError) as error:
        raise ConnectionError(f"the upload to {repo_id} failed; {remedy}; the reason: {error}") from error


def upload_in_one_commit(directory: Path, repo_id: str, ignore_patterns: list[str]) -> str:
    """Upload a model's directory to its repository in one commit, so that its configuration never comes without its weights.

    Args:
        directory: where the files are, in folders or not.
        repo_id: id of the repository, which exists.
        ignore_patterns: files to leave out, as `fnmatch` reads them; the Hub's client leaves out `.git` and its own cache in any case.

    Returns:
        The repository's URL.
    """
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    sent = filter_repo_objects(files, ignore_patterns=[*ignore_patterns, *DEFAULT_IGNORE_PATTERNS])
    operations = [CommitOperationAdd(name, directory / name) for name in sent]
    return str(HfApi().create_commit(repo_id, operations, commit_message="Upload the results of a training run").repo_url)


__all__ = ["create_repository", "explaining_failed_uploads", "upload_in_one_commit"]
