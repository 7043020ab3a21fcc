"""JSON files of benchmarks' results."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any


def write_results(path: Path, arguments: Any, results: Mapping[str, Any]) -> None:
    """Write results with the flags that they were measured with.

    Args:
        path: the file; its directory is created if needed.
        arguments: the dataclass of flags.
        results: JSON values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(arguments).items()}
    path.write_text(json.dumps({"arguments": settings, **results}, indent=2) + "\n")
