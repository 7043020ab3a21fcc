"""Choose a Mitsuba back end that works here: LLVM (fast), scalar (needs no system library), or CUDA (an NVIDIA GPU with OptiX).

An incompatible LLVM library aborts the whole process, so every candidate is first tried in a separate process.
"""

import glob
import os
import re
import subprocess
import sys
import warnings

LLVM, SCALAR, CUDA, AUTO = "llvm_ad_rgb", "scalar_rgb", "cuda_ad_rgb", "auto"
RENDERING = (LLVM, SCALAR, CUDA)
VARIANTS = (AUTO, *RENDERING)

LIBRARY_VARIABLE = "DRJIT_LIBLLVM_PATH"
"""Environment variable with the path of the LLVM library that Dr.Jit loads."""

OLDEST_LLVM = 17
"""Dr.Jit rejects 14; 15 and 16 aborted during rendering in our tests."""

_PLACES = (
    "/usr/lib/*-linux-gnu/libLLVM*.so*",
    "/usr/lib/llvm-*/lib/libLLVM*.so*",
    "/usr/lib64/libLLVM*.so*",
    "/usr/lib64/llvm*/lib64/libLLVM*.so*",
    "/opt/homebrew/opt/llvm*/lib/libLLVM*.dylib",
    "/usr/local/opt/llvm*/lib/libLLVM*.dylib",
)

_TRIAL = """
import sys
import mitsuba as mi
mi.set_variant(sys.argv[1])
scene = mi.load_dict({
    "type": "scene", "light": {"type": "constant"}, "cube": {"type": "cube"},
    "sensor": {"type": "perspective", "film": {"type": "hdrfilm", "width": 8, "height": 8}},
})
mi.TensorXf(mi.render(scene, integrator=mi.load_dict({"type": "path", "max_depth": 3}), spp=1)).numpy()
"""

INSTALL_HINT = (
    "For the fast variant install LLVM 17 or newer (Debian and Ubuntu: apt-get install libllvm19), "
    f"or set {LIBRARY_VARIABLE} to a libLLVM file."
)


def llvm_libraries() -> list[str]:
    """LLVM libraries to try: the one named by the environment variable, else those found, version 19 first, then the newest."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return [named]
    versions = {path: _llvm_version(path) for pattern in _PLACES for path in glob.glob(pattern)}
    fit = [path for path, version in versions.items() if version >= OLDEST_LLVM]
    return sorted(fit, key=lambda path: (versions[path] != 19, -versions[path], path))


def _llvm_version(path: str) -> int:
    """Major version from the file's name or folder; 0 if neither contains it."""
    numbers = re.findall(r"(?:libLLVM[-.](?:so\.)?|llvm-?@?)(\d+)", os.path.realpath(path))
    return int(numbers[-1]) if numbers else 0


def survives_trial(variant: str, library: str | None = None, timeout_seconds: float = 600.0) -> bool:
    """Whether a tiny rendering with a variant and LLVM library succeeds, tested in another process because a failure aborts it.

    The time limit is generous, so that a slow machine is not mistaken for one without LLVM.
    """
    environment = os.environ if library is None else {**os.environ, LIBRARY_VARIABLE: library}
    try:
        trial = subprocess.run([sys.executable, "-c", _TRIAL, variant], env=environment, capture_output=True, timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        return False
    return trial.returncode == 0


def choose_variant(wanted: str = AUTO) -> tuple[str, str | None]:
    """Find a variant that works here, without loading anything into this process.

    Args:
        wanted: one of `VARIANTS`; `"auto"` chooses LLVM if any library passes its trial, else scalar with a warning. It never chooses
            CUDA, so that a machine's GPU does not change the images.

    Returns:
        `tuple`: the variant's name, and its LLVM library or `None`.

    Raises:
        ValueError: if the name is unknown.
        RuntimeError: if LLVM is required and no library works, or CUDA is required and does not work.
    """
    if wanted not in VARIANTS:
        raise ValueError(f"unknown variant {wanted!r}; choose one of {', '.join(VARIANTS)}")
    if wanted == SCALAR:
        return SCALAR, None
    if wanted == CUDA:
        if not survives_trial(CUDA):
            raise RuntimeError(f"{CUDA} does not work here; it needs an NVIDIA GPU and a driver with OptiX. Choose {LLVM} or {AUTO}")
        return CUDA, None
    candidates = llvm_libraries()
    for library in candidates:
        if survives_trial(LLVM, library):
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
        threads: threads of this process; one per core by default.

    Raises:
        ImportError: if Mitsuba is not installed; the message names the extra that installs it.
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
