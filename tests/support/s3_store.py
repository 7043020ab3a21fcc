"""A store that speaks the protocol of Amazon S3, on the loopback interface of this machine."""

import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUCKET = "s3://bucket"


@contextmanager
def s3_store() -> Iterator[str]:
    """Serve an empty bucket, which s3fs finds by the environment, also in child processes; yields its URL.

    The test that needs it is skipped if s3fs or moto, the server, is not installed.
    """
    s3fs = pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST"))  # an earlier server's buckets
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()  # connections to an earlier store
        s3fs.S3FileSystem().mkdir(BUCKET)
        try:
            yield BUCKET
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.stop()


def upload(directory: Path, url: str) -> str:
    """Copy the files of a directory to a URL, and return it."""
    import s3fs

    s3fs.S3FileSystem().put(f"{directory}/", f"{url}/", recursive=True)
    return url
