"""The processes in which Ray Data runs a test's work."""

import psutil


def map_workers():
    """Those that this process started, and not those of other tests that run at the same time."""
    own = {child.pid for child in psutil.Process().children(recursive=True)}
    return [each for each in psutil.process_iter(["cmdline"]) if each.pid in own and "MapWorker" in " ".join(each.info["cmdline"] or [])]
