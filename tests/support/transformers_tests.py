"""Make transformers' own tests importable: its released sources contain the test mixins, but not all modules that these import.

This repository contains no code of transformers. pip downloads the source distribution of the installed version.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from filelock import FileLock

PACKAGE = "transformers_tests"
"""Name under which the mixins are imported, e.g. `transformers_tests.test_modeling_common`."""

IMAGE_VARIABLE = "TRANSFORMERS_TESTS_IMAGE"
"""Environment variable with the path of an image, which replaces the images that the mixins download."""

# Modules that the mixins import and the source distribution lacks. The names of the first two suffice, because MulT does not generate
# text; the dictionary holds arguments of any configuration.
STAND_INS = {
    f"{PACKAGE}/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    f"{PACKAGE}/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    f"{PACKAGE}/utils/test_configuration_utils.py": 'config_common_kwargs = {"output_attentions": True, "dtype": "float16"}\n',
    "utils/fetch_hub_objects_for_ci.py": f"import os\n\n\ndef url_to_local_path(url):\n    return os.environ[{IMAGE_VARIABLE!r}]\n",
    "src/transformers/__init__.py": "",  # the mixins execute this file, and then use the installed package
}


class Unavailable(Exception):
    """The sources are not available; the message states the reason."""


def lay_out(cache: Path) -> Path:
    """The directory from which the mixins can be imported; created by the first call.

    Args:
        cache: directory that remains after the test run.

    Raises:
        Unavailable: if pip cannot download the sources.
    """
    version = importlib.metadata.version("transformers")
    directory = cache / f"transformers-{version}"
    with FileLock(cache / "lock"):  # two test processes may call this at the same time
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            _extract(_download(version, cache), directory)
            (directory / "complete").touch()
    return directory


def _download(version: str, cache: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=transformers", f"--dest={cache}"]
    # pip runs the build of the sources, which must not import this repository.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        result = subprocess.run([*pip, f"transformers=={version}"], env=environment, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip could not download the sources of transformers {version} within 5 minutes") from None
    found = cache / f"transformers-{version}.tar.gz"
    if result.returncode or not found.exists():
        raise Unavailable(f"pip cannot download the sources of transformers {version}: {result.stderr.strip()[-300:]}")
    return found


def _extract(archive: Path, directory: Path) -> None:
    with tarfile.open(archive) as sources:
        for member in sources.getmembers():
            parts = Path(member.name).parts
            if member.isfile() and len(parts) == 3 and parts[1] == "tests" and parts[2].endswith(".py"):
                _write(directory / PACKAGE / parts[2], sources.extractfile(member).read())
    for name, text in STAND_INS.items():
        _write(directory / name, text.encode())
    root = directory / PACKAGE
    for package in (root, *(path for path in root.iterdir() if path.is_dir())):
        (package / "__init__.py").touch()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
