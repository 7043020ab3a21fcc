"""Find and read images in object stores, through fsspec: `s3://`, `gs://`, `hf://` and others."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from os.path import commonpath
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast

import fsspec
from fsspec.core import url_to_fs
from PIL import Image

from mult_hf.data.schema import is_url
from mult_hf.data.stores import checksum, naming_store
from mult_hf.model.entry_fields import refusal
from mult_hf.model.images import read_image

from .sources import IMAGE_SUFFIXES, FailedInput, InputImage


class FoundObjects(NamedTuple):
    """Images to predict.

    Args:
        root: URL that names are relative to.
        urls: URLs of the images, sorted, without duplicates.
        ignored: number of other files in the folders, by suffix.
    """

    root: str
    urls: list[str]
    ignored: Counter[str]


def find_objects(inputs: Sequence[str]) -> FoundObjects:
    """Find images in object stores.

    Args:
        inputs: URLs of files, of folders (searched recursively), and of patterns with `*` and `**`. A file given by its own URL is used
            whatever its suffix.

    Raises:
        ValueError: if an input is a path or has an unknown protocol, inputs are in several stores, or there is no image.
        OSError: if the store cannot be reached.
        ImportError: if the package for a store is not installed; the message names it.
    """
    if paths := [text for text in inputs if not is_url(text)]:
        raise refusal(f"--inputs has paths and URLs; give either: {paths} are paths")
    urls: set[str] = set()
    roots: list[str] = []
    ignored: Counter[str] = Counter()
    for text in inputs:
        store, path = url_to_fs(text)
        with naming_store(text):
            is_folder = store.isdir(path)
            found = store.glob(path) if "*" in path else store.find(path) if is_folder else [path] * store.exists(path)
        found = [each for each in found if not each.endswith("/")]  # empty objects that some programs create to mark folders
        if not found:
            raise ValueError(f"{text} does not exist; give URLs of images or folders, or patterns such as 's3://bucket/images/**/*.jpg'")
        roots.append(store.unstrip_protocol(path if is_folder else _fixed_folder(path)))
        for each in found:
            suffix = PurePosixPath(each).suffix.lower()
            if suffix in IMAGE_SUFFIXES or each == path:
                urls.add(store.unstrip_protocol(each))
            else:
                ignored[suffix] += 1
    if not urls:
        raise refusal(f"there is no image in {', '.join(inputs)}; ignored by suffix: {dict(ignored)} (copy videos to a disk first)")
    if len({root.partition("://")[0] for root in roots}) > 1:
        raise refusal(f"--inputs has URLs of several stores, {roots}; predict one after the other")
    return FoundObjects(_common_root(roots), sorted(urls), ignored)


def _fixed_folder(path: str) -> str:
    """The folder of a file, or the one before the first `*` of a pattern."""
    return next(str(folder) for folder in PurePosixPath(path).parents if "*" not in str(folder))


def _common_root(roots: Sequence[str]) -> str:
    scheme = roots[0].partition("://")[0]
    return f"{scheme}://{commonpath(['/' + root.partition('://')[2] for root in roots]).lstrip('/')}"


class ObjectSource:
    """The images of object stores.

    Args:
        found: the images.
    """

    def __init__(self, found: FoundObjects) -> None:
        self.found = found

    def __iter__(self) -> Iterator[InputImage | FailedInput]:
        for url in self.found.urls:
            name = "/" + url.partition("://")[2].lstrip("/")
            root = "/" + self.found.root.partition("://")[2].lstrip("/")
            relative = PurePosixPath(name).relative_to(root).as_posix()
            yield InputImage(relative, partial(_read, url), partial(_digest, url), partial(_stamp, url))

    def parts(self) -> list[bytes]:
        """The URLs, as bytes."""
        return [url.encode() for url in self.found.urls]

    def part(self, parts: Sequence[bytes]) -> "ObjectSource":
        """The images at these URLs."""
        return ObjectSource(FoundObjects(self.found.root, [url.decode() for url in parts], Counter()))

    def is_image(self, part: bytes) -> bool:
        """True for every URL."""
        return True

    def __len__(self) -> int:
        return len(self.found.urls)


def _stamp(url: str) -> str:
    """The store's identifier for the version of an object, such as its ETag.

    fsspec's `ukey` is only used if there is none, because it changes once the folder of an object has been listed.
    """
    store, path = url_to_fs(url)
    return checksum(store.info(path)) or str(store.ukey(path))


@lru_cache(maxsize=1)  # an image is read right after its digest is computed
def _content(url: str, stamp: str) -> bytes:
    """The bytes of an object at this stamp."""
    with fsspec.open(url, "rb") as file:
        return cast(Any, file).read()


def _digest(url: str) -> str:
    return hashlib.sha256(_content(url, _stamp(url))).hexdigest()


def _read(url: str) -> Image.Image:
    return cast("Image.Image", read_image(_content(url, _stamp(url)), name=url))  # it returns an array only for an array


__all__ = ["FoundObjects", "ObjectSource", "find_objects"]
