"""Which of Mitsuba's back ends runs here: LLVM (fast) or scalar (needs no system library).

Loading an unfit LLVM library aborts the whole process, so every candidate is tried in a process of its own first.
"""

import glob
import os
import re
import subprocess
import sys
import warnings

LLVM, SCALAR, AUTO = "llvm_ad_rgb", "scalar_rgb", "auto"
VARIANTS = (AUTO, LLVM, SCALAR)

LIBRARY_VARIABLE = "DRJIT_LIBLLVM_PATH"
"""Environment variable that tells Dr.Jit which LLVM library to load."""

OLDEST_LLVM = 17
"""14 is refused by Dr.Jit; 15 and 16 were seen to abort in the middle of a rendering."""

_PLACES = (
    "/usr/lib/*-linux-gnu/libLLVM*.so*",
    "/usr/lib/llvm-*/lib/libLLVM*.so*",
    "/usr/lib64/libLLVM*.so*",
    "/usr/lib64/llvm*/lib64/libLLVM*.so*",
    "/opt/homebrew/opt/llvm*/lib/libLLVM*.dylib",
    "/usr/local/opt/llvm*/lib/libLLVM*.dylib",
)

_TRIAL = f"""
import mitsuba as mi
mi.set_variant("{LLVM}")
scene = mi.load_dict({{
    "type": "scene", "light": {{"type": "constant"}}, "cube": {{"type": "cube"}},
    "sensor": {{"type": "perspective", "film": {{"type": "hdrfilm", "width": 8, "height": 8}}}},
}})
mi.TensorXf(mi.render(scene, integrator=mi.load_dict({{"type": "path", "max_depth": 3}}), spp=1)).numpy()
"""

INSTALL_HINT = (
    "For the fast variant install LLVM 17 or newer (Debian and Ubuntu: apt-get install libllvm19), "
    f"or set {LIBRARY_VARIABLE} to a libLLVM file."
)


def llvm_libraries() -> list[str]:
    """LLVM libraries worth a trial: the one that the environment names, else those found, version 19 first, then the newest."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return [named]
    versions = {path: _llvm_version(path) for pattern in _PLACES for path in glob.glob(pattern)}
    fit = [path for path, version in versions.items() if version >= OLDEST_LLVM]
    return sorted(fit, key=lambda path: (versions[path] != 19, -versions[path], path))


def _llvm_version(path: str) -> int:
    """Major version by the file's name or folder; 0 where neither tells."""
    numbers = re.findall(r"(?:libLLVM[-.](?:so\.)?|llvm-?@?)(\d+)", os.path.realpath(path))
    return int(numbers[-1]) if numbers else 0


def survives_trial(library: str, timeout_seconds: float = 600.0) -> bool:
    """Whether a tiny rendering with an LLVM library ends well, tried in another process because a misfit aborts it.

    The time limit is generous: a busy machine must not look like one without LLVM.
    """
    environment = {**os.environ, LIBRARY_VARIABLE: library}
    try:
        trial = subprocess.run([sys.executable, "-c", _TRIAL], env=environment, capture_output=True, timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        return False
    return trial.returncode == 0


def choose_variant(wanted: str = AUTO) -> tuple[str, str | None]:
    """Find a variant that works here, without loading anything into this process.

    Args:
        wanted: one of `VARIANTS`; `"auto"` takes LLVM if any library survives its trial, else scalar with a warning.

    Returns:
        `tuple`: the variant's name, and the LLVM library for it or `None`.

    Raises:
        ValueError: on another name.
        RuntimeError: if LLVM is demanded and no library works.
    """
    if wanted not in VARIANTS:
        raise ValueError(f"variant {wanted!r} is not offered; choose one of {', '.join(VARIANTS)}")
    if wanted == SCALAR:
        return SCALAR, None
    candidates = llvm_libraries()
    for library in candidates:
        if survives_trial(library):
            return LLVM, library
    tried = f"tried {', '.join(candidates)}" if candidates else "found none"
    if wanted == LLVM:
        raise RuntimeError(f"no LLVM library works with Mitsuba here ({tried}). {INSTALL_HINT}")
    slow = f"no LLVM library works with Mitsuba here ({tried}): rendering with {SCALAR}, about 3 times slower. {INSTALL_HINT}"
    warnings.warn(slow, stacklevel=2)
    return SCALAR, None


def activate(variant: str, library: str | None, threads: int | None = None) -> None:
    """Make Mitsuba use a variant in this process.

    Args:
        variant: as [`choose_variant`] returns it.
        library: as [`choose_variant`] returns it.
        threads: of this process; by default as many as there are cores.

    Raises:
        ImportError: if Mitsuba is not installed, naming the extra that brings it.
    """
    if library is not None:
        os.environ[LIBRARY_VARIABLE] = library
    try:
        import drjit
        import mitsuba
    except ImportError as error:
        raise ImportError(f'rendering rooms needs Mitsuba ({error}); install it with: pip install "mult-hf[rooms]"') from error
    mitsuba.set_variant(variant)
    if threads is not None:
        drjit.set_thread_count(threads)
