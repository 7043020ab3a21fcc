"""The command `mult-hf`, also as `python -m mult_hf`.

    mult-hf predict --model me/mult --inputs images
    accelerate launch --num_processes 2 -m mult_hf train --dataset my-rooms

`mult-hf COMMAND --help` lists the flags of a command.
"""

import argparse
import importlib
import os
import re
import sys
import tarfile
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from .errors import MAX_MESSAGE, CommandError, OneLineParser, did_you_mean, on_one_line

USER_ERRORS = (CommandError, ValueError, OSError, ImportError, FloatingPointError, tarfile.TarError)
"""Errors from wrong flags, missing files, broken data, missing packages and diverging training, shown on one line, as are those of
transformers' configurations and of connections to the Hub. Others are bugs and keep their traceback."""


_VALIDATOR = re.compile(r"^Class validation error for validator '\w+':\s+\w+Error: ")
"""What huggingface_hub puts before the message of a configuration's check."""


class Command(NamedTuple):
    """A command.

    Args:
        module: module with `main(argv) -> int | None`; imported when the command runs.
        summary: one-line summary for `mult-hf --help`.
    """

    module: str
    summary: str


COMMANDS = {
    "predict": Command("mult_hf.cli.predict", "predict maps of images, videos and data sets"),
    "train": Command("mult_hf.cli.train", 'train on a data set of the schema (needs "mult-hf[train]")'),
    "evaluate": Command("mult_hf.cli.evaluate", 'measure a model on a data set (needs "mult-hf[train]")'),
    "export": Command("mult_hf.cli.export", 'write and check ONNX, OpenVINO, int8 and torch.export files (needs "mult-hf[export]")'),
    "demo": Command("mult_hf.cli.demo", 'serve a page that predicts maps in the browser (needs "mult-hf[demo]")'),
    "serve": Command("mult_hf.cli.serve", 'serve a model over HTTP (needs "mult-hf[serve]")'),
    "check": Command("mult_hf.cli.check", 'check a data set against its card (needs "mult-hf[data]")'),
    "render rooms": Command("mult_hf.cli.render_rooms", 'render indoor scenes with exact maps (needs "mult-hf[rooms]")'),
    "render doom": Command("mult_hf.cli.render_doom", 'render views of Freedoom levels with exact maps (needs "mult-hf[doom]")'),
    "convert": Command("mult_hf.cli.convert", 'read or convert a downloaded benchmark (needs "mult-hf[data]")'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command and its flags; by default those of this process. `--debug`, at any position, shows tracebacks.

    Returns:
        The exit status: that of the command; 2 after an error that the user can fix, and 130 after an interrupt.
    """
    argv = sys.argv[1:] if argv is None else [*argv]
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    name, rest = _split(argv)
    if "OMP_WAIT_POLICY" not in os.environ:  # read once, when torch is loaded (docs/performance.md#threads)
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        importlib.import_module("mult_hf.model.registration")  # the package itself left it to this moment
        return importlib.import_module(COMMANDS[name].module).main(rest) or 0
    except KeyboardInterrupt:
        _say(f"mult-hf {name}: interrupted")
        return 130
    except Exception as error:
        if not isinstance(error, _user_errors()):
            raise
        if debug:
            traceback.print_exc()
        _say(f"mult-hf {name}: error: {_one_line(error, limit=None if debug else MAX_MESSAGE)}")
        return 2


def _user_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import HTTPError, StrictDataclassError  # here, since help needs no library

    from mult_hf.inference.errors import ExportError

    return (*USER_ERRORS, ExportError, StrictDataclassError, HTTPError)  # HTTPError: that of the Hub's library, where it is no OSError


def _split(argv: list[str]) -> tuple[str, list[str]]:
    """The command's name and its arguments; exits on `--help`, `--version` and unknown names."""
    name = next((name for name in COMMANDS if name.split() == argv[: len(name.split())]), None)
    if name is not None:
        return name, argv[len(name.split()) :]
    group = [name for name in COMMANDS if len(name.split()) > 1 and name.split()[:-1] == argv[:1]]  # as of `render`
    if group and argv[1:2] in (["-h"], ["--help"]):
        summaries = (f"  {name:14}{COMMANDS[name].summary}" for name in group)
        print("\n".join([f"usage: mult-hf {argv[0]} KIND [-h] [--FLAG VALUE ...]", "", *summaries]))
        sys.exit(0)
    parser = _parser()
    known = f"choose from: {', '.join(COMMANDS)}"
    if not argv:
        return parser.error(f"the following arguments are required: COMMAND; {known}")
    if group and len(argv) == 1:
        return parser.error(f"unknown command {argv[0]!r}; choose from: {', '.join(group)}")
    if argv[0] in ("-h", "--help", "--version"):
        parser.parse_args(argv[:1])
    name = " ".join(argv[: 2 if group else 1])
    if name.startswith("-"):
        return parser.error(f"the command comes before its flags, but {name} came first; {known}")
    return parser.error(f"unknown command {name!r}; {known}{did_you_mean([name], COMMANDS)}")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="mult-hf",
        description="Several dense maps of one image from one network: predict, train, evaluate, export, show in a browser, prepare data.",
        epilog="commands:\n" + "\n".join(f"  {name:14}{command.summary}" for name, command in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="see below; COMMAND --help lists its flags")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error; allowed at any position")
    parser.add_argument("--version", action="version", version=f"mult-hf {_version()}")
    return parser


def _version() -> str:
    from mult_hf import __version__

    return __version__


def _say(message: str) -> None:
    """Print to standard error on a separate line, even after an unfinished progress bar."""
    bars = sys.modules.get("tqdm")
    if bars is None:
        print(message, file=sys.stderr)
    else:
        bars.tqdm.write(message, file=sys.stderr)


def _one_line(error: BaseException, limit: int | None) -> str:
    """The message of an error without line breaks, or the name of its class if it has none.

    A long message is cut in the middle, because it begins with what was given and ends with what to do.
    """
    message = on_one_line(_VALIDATOR.sub("", str(error))) or type(error).__name__
    if limit is None or len(message) <= limit:
        return message
    hint = " (--debug shows it all)"
    half = (limit - len(hint) - len(" ... ")) // 2
    return f"{message[:half]} ... {message[-half:]}{hint}"
