"""Mutation test: check that the test suite fails for each of a list of deliberate bugs.

    python examples/tools/mutants.py [--only ID ...] [--jobs 2] [--timeout 300]

`mutants.yaml` next to this file lists small edits of the package, each a plausible bug: a flipped sign, a missing mask, a wrong axis. The
command copies the tree, runs the listed tests on the unchanged copy, then applies the edits to the copy one by one and runs each edit's
tests. An edit whose tests fail is killed. One whose tests pass survives, so a bug of that kind would go unnoticed. The working tree is
never changed. The exit status is 0 if every edit is killed, 1 if one survives, 2 if the list itself is wrong.
"""

import argparse
import ast
import importlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_suffix(".yaml")
KILLED, HUNG, SURVIVED, BROKEN = "killed", "killed (hung)", "SURVIVED", "BROKEN"

# Exit statuses of pytest: https://docs.pytest.org/en/stable/reference/exit-codes.html
_PASSED, _FAILED, _NOT_RUN = 0, 1, 3
_POLL_SECONDS = 0.1
# Libraries that the package and its tests import; missing ones are left out.
PRELOADED = (
    "accelerate",
    "datasets",
    "evaluate",
    "peft",
    "pytest",
    "scipy.ndimage",
    "skimage.feature",
    "torchvision.transforms.v2",
    "transformers.image_processing_backends",
    "transformers.models.swin.modeling_swin",
    "transformers.pipelines",
    "transformers.trainer",
)
_IGNORED = shutil.ignore_patterns(".git", ".venv", "venv", "outputs", "site", "__pycache__", ".*_cache")


@dataclass(frozen=True)
class Mutant:
    """One deliberate bug.

    Args:
        id: short name.
        file: path of the source file, relative to the root of the tree.
        old: text that occurs exactly once in the file.
        new: text that replaces it.
        tests: files, directories or `file::test`, relative to the root of the tree; one of their tests must fail.
    """

    id: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, source: str) -> str:
        """Return the source with the bug.

        Raises:
            ValueError: if the old text does not occur exactly once, or the edit changes nothing or is not valid Python.
        """
        count = source.count(self.old)
        if count != 1:
            raise ValueError(f"{self.id}: {self.old!r} occurs {count} times in {self.file}; it must occur once, so extend or correct `old`")
        changed = source.replace(self.old, self.new)
        try:
            tree = ast.parse(changed)
        except SyntaxError as error:
            raise ValueError(f"{self.id}: {self.new!r} leaves invalid Python in {self.file}, line {error.lineno}; correct `new`") from None
        if ast.dump(tree) == ast.dump(ast.parse(source)):
            raise ValueError(f"{self.id}: {self.new!r} does not change what {self.file} does; correct `new`")
        return changed


@dataclass(frozen=True)
class Outcome:
    """Result of the tests for a mutant.

    Args:
        mutant: the tested one.
        result: `KILLED`, `HUNG`, `SURVIVED` or `BROKEN` (the tests could not run).
        seconds: wall-clock time of the test run.
        test: first test that failed; empty if none did.
        output: of pytest.
    """

    mutant: Mutant
    result: str
    seconds: float
    test: str
    output: str


def read_list(path: Path) -> list[Mutant]:
    """Read a list of mutants.

    Raises:
        ValueError: if an entry lacks a field or has an unknown one, or two entries share an id.
    """
    mutants = []
    for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8"))):
        expected = {"id", "file", "old", "new", "tests"}
        if set(entry) != expected:
            raise ValueError(f"{path}: entry {entry.get('id', number)} has the fields {sorted(entry)}; expected {sorted(expected)}")
        mutants.append(Mutant(**{**entry, "tests": tuple(entry["tests"])}))
    ids = [mutant.id for mutant in mutants]
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: ids {repeated} occur more than once; give each mutant its own")
    return mutants


def check_list(mutants: Sequence[Mutant], root: Path) -> list[str]:
    """Find entries that do not match the tree.

    Returns:
        One message per wrong entry, with the mutant's id; empty if all entries apply and their tests exist.
    """
    problems = []
    for mutant in mutants:
        try:
            mutant.apply((root / mutant.file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(str(error) if isinstance(error, ValueError) else f"{mutant.id}: cannot read {mutant.file}: {error}")
        missing = [test for test in mutant.tests if not _exists(root, test)]
        if missing or not mutant.tests:
            problems.append(f"{mutant.id}: tests {missing or 'are not named'} do not exist; name the files that should fail")
    return problems


def _exists(root: Path, test: str) -> bool:
    """Whether the file or directory exists and, for a file, contains the test after `::`."""
    path, _, name = test.partition("::")
    return (root / path).exists() and (not name or f"def {name}(" in (root / path).read_text(encoding="utf-8"))


def select(mutants: Sequence[Mutant], only: Sequence[str]) -> list[Mutant]:
    """Return the mutants with these ids, or all mutants if there are no ids.

    Raises:
        ValueError: if an id is unknown.
    """
    unknown = sorted(set(only) - {mutant.id for mutant in mutants})
    if unknown:
        raise ValueError(f"unknown mutants {unknown}; the list has {len(mutants)}, such as {mutants[0].id}; see mutants.yaml")
    return [mutant for mutant in mutants if not only or mutant.id in only]


@dataclass
class TestRun:
    """A run of tests in a separate process, on a copy of the tree.

    The process is a fork of this one, which has already imported the large libraries that the tests need, but nothing from the tree.

    Args:
        directory: root of the copy.
        tests: files, directories or `file::test` in it.
    """

    __test__ = False  # otherwise pytest would collect a class of this name

    directory: Path
    tests: Sequence[str]

    def __post_init__(self) -> None:
        self.start = time.monotonic()
        self.log = self.directory.with_suffix(".log")
        self.process = multiprocessing.get_context("fork").Process(target=_run_pytest, args=(self.directory, self.tests, self.log))
        self.process.start()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    @property
    def output(self) -> str:
        """Output of pytest so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def poll(self, timeout: float) -> tuple[bool, int | None]:
        """Whether the run is over, and pytest's exit status; None if it took longer than `timeout` seconds and was stopped."""
        if self.process.exitcode is not None:
            return True, self.process.exitcode
        if self.seconds > timeout:
            self.stop()
            return True, None
        return False, None

    def stop(self) -> None:
        """End the process, and those that the tests started."""
        if self.process.exitcode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()  # if it is not yet the leader of its group
            self.process.join()


def _run_pytest(directory: Path, tests: Sequence[str], log: Path) -> None:
    """Body of the forked process; its exit status is pytest's."""
    os.setsid()
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(directory)
    os.environ["PYTHONPATH"] = str(directory)  # for processes that tests start
    sys.path[:] = [str(directory), *(path for path in sys.path if not _is_of_working_tree(path))]
    # The copy's modules must be imported, not those of the working tree. Find the locations of all modules before removing any, because
    # a namespace package needs its parent to find its location.
    places = {
        name: getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None) for name, module in sys.modules.items()
    }
    for name, place in places.items():
        if name != "__main__" and place is not None and _is_of_working_tree(place):
            del sys.modules[name]
    sys.dont_write_bytecode = True  # bytecode of an edit that keeps a file's size, within one second, would look up to date
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ.setdefault("MULT_HF_PROFILE", "full")  # slow tests may be the ones that notice
    status = _NOT_RUN
    try:
        import pytest

        status = pytest.main(["-x", "-q", "--tb=line", "-p", "no:cacheprovider", *tests])
    except BaseException:  # an uncaught error would exit with 1, pytest's status for failed tests
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without waiting for the libraries' clean-up


def _is_of_working_tree(path: str) -> bool:
    """Whether a path belongs to the repository but not to a virtual environment inside it."""
    place = Path(path).absolute()
    return place.is_relative_to(ROOT) and not place.is_relative_to(Path(sys.prefix).absolute())


def preload(names: Sequence[str]) -> None:
    """Import large libraries once, so that a fork starts testing within a second."""
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)


@contextmanager
def copies(root: Path, count: int) -> Iterator[list[Path]]:
    """Copy a tree `count` times for the duration of a `with` block; the tree itself is never modified."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        paths = [Path(directory).resolve() / f"copy-{number}" for number in range(count)]
        for path in paths:
            shutil.copytree(root, path, ignore=_IGNORED)
        yield paths


def check_unchanged(directory: Path, tests: Sequence[str], timeout: float) -> None:
    """Run tests on an unchanged copy.

    Raises:
        ValueError: if one fails, because its failure on a mutant would then prove nothing.
    """
    run = TestRun(directory, tests)
    while not (over := run.poll(timeout))[0]:
        time.sleep(_POLL_SECONDS)
    if over[1] != _PASSED:
        raise ValueError(f"the tests do not pass on the unchanged tree, so failures on mutants would prove nothing:\n{run.output[-3000:]}")
    print(f"{len(tests)} named tests pass on the unchanged tree ({run.seconds:.0f} s)", flush=True)


def attempt(mutants: Sequence[Mutant], directories: Sequence[Path], timeout: float) -> Iterator[Outcome]:
    """Apply mutants one by one to copies of the tree, in parallel on all copies, and yield outcomes as they finish."""
    waiting, free = list(mutants), list(directories)
    running: list[tuple[Mutant, str, TestRun]] = []
    try:
        while waiting or running:
            while waiting and free:
                mutant, directory = waiting.pop(0), free.pop()
                source = (directory / mutant.file).read_text(encoding="utf-8")
                (directory / mutant.file).write_text(mutant.apply(source), encoding="utf-8")
                running.append((mutant, source, TestRun(directory, mutant.tests)))
            time.sleep(_POLL_SECONDS)
            for mutant, source, run in list(running):
                over, status = run.poll(timeout)
                if over:
                    (run.directory / mutant.file).write_text(source, encoding="utf-8")
                    running.remove((mutant, source, run))
                    free.append(run.directory)
                    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", run.output, re.MULTILINE)
                    result = {None: HUNG, _PASSED: SURVIVED, _FAILED: KILLED}.get(status, BROKEN)
                    yield Outcome(mutant, result, run.seconds, failed[1] if failed else "", run.output)
    finally:
        for _, _, run in running:
            run.stop()


def run(mutants: Sequence[Mutant], root: Path, *, jobs: int, timeout: float, preloaded: Sequence[str] = PRELOADED) -> list[Outcome]:
    """Test every mutant on copies of a tree.

    Args:
        mutants: mutants to apply, one at a time per copy.
        root: root of the tree.
        jobs: number of copies that are tested in parallel.
        timeout: seconds per mutant.
        preloaded: libraries to import before the tests run.

    Returns:
        Outcomes in the order of the mutants.

    Raises:
        ValueError: if the list does not match the tree, or a listed test fails without a mutant.
    """
    problems = check_list(mutants, root)
    if problems:
        raise ValueError("\n".join(problems))
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    preload(preloaded)
    outcomes = {}
    with copies(root, jobs) as directories:
        check_unchanged(directories[0], tests, timeout * len(tests))
        for outcome in attempt(mutants, directories, timeout):
            outcomes[outcome.mutant.id] = outcome
            print(f"{outcome.result:14} {outcome.seconds:5.0f} s  {outcome.mutant.id}", flush=True)
    return [outcomes[mutant.id] for mutant in mutants]


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown table with one row per mutant, and a line with the totals."""
    rows = [[each.mutant.id, each.mutant.file, each.result, each.test or "-", f"{each.seconds:.0f}"] for each in outcomes]
    killed = sum(each.result in (KILLED, HUNG) for each in outcomes)
    header = ["mutant", "file", "result", "by", "seconds"]
    return f"{tabulate(rows, header, tablefmt='github', disable_numparse=True)}\n\n{killed} of {len(outcomes)} mutants killed"


def main(argv: Sequence[str] | None = None, *, root: Path = ROOT, path: Path = LIST, preloaded: Sequence[str] = PRELOADED) -> int:
    """Run the command.

    Args:
        argv: the command line without the program's name.
        root: root of the tree to test.
        path: path of the list.
        preloaded: libraries to import before the tests run.

    Returns:
        The exit status: 0 if every mutant is killed, 1 if one survives, 2 if the list or a command-line argument is wrong.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="test only these mutants")
    parser.add_argument("--jobs", type=int, default=1, help="mutants to test in parallel, each on its own copy (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds per mutant; a hang counts as killed (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1 or not arguments.timeout > 0:
        parser.error(f"--jobs is {arguments.jobs} and --timeout {arguments.timeout}; give at least 1 job and a timeout above 0")
    try:
        outcomes = run(select(read_list(path), arguments.only), root, jobs=arguments.jobs, timeout=arguments.timeout, preloaded=preloaded)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{table(outcomes)}")
    broken = [each for each in outcomes if each.result == BROKEN]
    for each in broken:
        print(f"\n{each.mutant.id}: the tests could not run:\n{each.output[-2000:]}", file=sys.stderr)
    return 2 if broken else int(any(each.result == SURVIVED for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
