"""What object stores (`s3://`, `gs://`, `hf://` and others) have in common, beyond fsspec's interface."""

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CHECKSUMS = ("ETag", "etag", "blob_id", "md5Hash", "content_md5", "xet_hash")
"""Keys under which stores describe the contents of an object. Other keys differ between a listing and a request for one object."""


def checksum(facts: Mapping[str, Any]) -> str | None:
    """The store's checksum, or version, of an object; None if it has none.

    Args:
        facts: as from fsspec's `info`.

    Examples:
        >>> checksum({"name": "bucket/a.png", "size": 3, "ETag": '"900150"'})
        '"900150"'
    """
    return next((str(facts[key]) for key in _CHECKSUMS if facts.get(key)), None)


@contextmanager
def naming_store(url: str | Path) -> Iterator[None]:
    """Name the URL in errors of the store's own package, which are of its own classes and do not say what was read or written.

    Args:
        url: what is read or written in the `with` block.

    Raises:
        OSError: for example if there are no credentials, or the store cannot be reached.
    """
    try:
        yield
    except (OSError, ValueError, ImportError):  # fsspec's
        raise
    except Exception as error:
        if isinstance(error, tarfile.TarError):  # a broken archive
            raise OSError(f"{url} cannot be read: {error}; make or download its files again") from error
        raise OSError(f"{url} cannot be reached: {error}; check the credentials, the store's address, and the network") from error


__all__ = ["checksum", "naming_store"]
