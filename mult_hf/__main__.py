"""The command `mult-hf`, also as `python -m mult_hf`: one door to the scripts in `examples/` and the tools for data.

    mult-hf predict --model me/mult --inputs photos
    accelerate launch --num_processes 2 -m mult_hf train --dataset my-rooms

Every command takes the flags of what it runs; `mult-hf COMMAND --help` lists them.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from mult_hf.cli.arguments import COMMAND

PACKAGE = Path(__file__).resolve().parent

SCRIPTS = {
    "predict": ("predict", "maps of photos, videos and data sets"),
    "train": ("train", 'train on a data set of the schema (needs "mult-hf[train]")'),
    "export": ("export", 'write and check ONNX (float32, int8) and torch.export files (needs "mult-hf[export]")'),
    "demo": ("app", 'serve a page in the browser: photo in, maps out (needs "mult-hf[demo]")'),
}
"""Commands that run a script of `examples/`, its name, and what they do."""

MODULES = {
    "evaluate": ("mult_hf.cli.evaluate", 'measure a model on a data set (needs "mult-hf[train]")'),
    "check": ("mult_hf.data.check", 'does a data set hold what its card says? (needs "mult-hf[data]")'),
    "render rooms": ("mult_hf.data.synthetic.rooms", 'render indoor scenes with exact maps (needs "mult-hf[rooms]")'),
    "render doom": ("mult_hf.data.synthetic.doom", 'render views of Freedoom levels with exact maps (needs "mult-hf[doom]")'),
}
"""Commands that run a module, the module, and what they do."""


def script_path(name: str) -> Path:
    """Where a script of `examples/` lies: in the package once it is installed from a wheel, beside it in a checkout.

    Raises:
        ValueError: if it is at neither place.
    """
    places = [PACKAGE / "examples" / f"{name}.py", PACKAGE.parent / "examples" / f"{name}.py"]
    for path in places:
        if path.is_file():
            return path
    raise ValueError(f"{name}.py is at none of {[str(path) for path in places]}; install mult-hf again")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; `argv` are those of the command line by default."""
    argv = sys.argv[1:] if argv is None else [*argv]
    described = {name: text for name, (_, text) in (SCRIPTS | MODULES).items()}
    parser = argparse.ArgumentParser(
        prog="mult-hf",
        description="Several dense maps of one image from one network: predict, train, evaluate, export, show, and make data.",
        epilog="commands:\n" + "\n".join(f"  {name:14}{text}" for name, text in described.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="see below; COMMAND --help lists its flags")
    name = next((name for name in described if name.split() == argv[: len(name.split())]), None)
    if name is None:
        parser.parse_args(argv[:1])  # --help, or nothing at all
        parser.error(f"there is no command {' '.join(argv[:2])!r}; choose from: {', '.join(described)}")
    sys.argv = [f"mult-hf {name}", *argv[len(name.split()) :]]
    token = COMMAND.set(sys.argv[0])  # runpy puts a file's path there, which usage lines must not show
    try:
        if name in SCRIPTS:
            runpy.run_path(str(script_path(SCRIPTS[name][0])), run_name="__main__")
        else:
            runpy.run_module(MODULES[name][0], run_name="__main__", alter_sys=True)
    finally:
        COMMAND.reset(token)


if __name__ == "__main__":
    main()
