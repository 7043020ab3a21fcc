"""Train all runs of a YAML file, and compare them in one table and one plot.

    python examples/study/ablation.py --plan examples/study/ablations/paper.yaml --output_dir outputs/paper

The file (docs/baselines.md has a complete one):

    base: {decoder: mult, learning_rate: 2e-3}  # flags of `mult-hf train` that all runs have
    seeds: [0, 1]                               # optional: every run once per seed
    runs:                                       # name -> flags that differ from base; null removes one of base's
      mult: {block_attention: [self, encoder]}
      swin-unet: {decoder: swin_unet, block_attention: [self, self]}
    grid:                                       # in addition to runs or instead: one run for every combination
      learning_rate: [1e-3, 2e-3]
      decoder: [mult, mtan]
    reference: mult                             # optional: the run, or list of runs, that the multi-task gain is computed against

Each run has its own process and directory. If the script is started again, it skips finished runs, continues an interrupted one,
repeats failed ones, and rejects a name whose flags have changed. `--output_dir` receives one directory per run (with `log.txt`), and
after every run `table.md`, `plot.png` and `results.json`.
"""

import difflib
import itertools
import json
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from mult_hf import TaskSpec
from mult_hf.cli import arguments as command_line
from mult_hf.data.files import whole_file
from mult_hf.data.markdown import markdown_table
from mult_hf.evaluation.cards import to_jsonable
from mult_hf.evaluation.comparison import gain_over
from mult_hf.metrics import metrics_of
from mult_hf.model.tasks import resolve_tasks

TRAIN = ["-m", "mult_hf", "train"]
"""The module that a launcher runs: the installed package, from any directory."""

LAUNCHERS = {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.launch"]}
KEYS = ("base", "seeds", "runs", "grid", "reference")
OWN_FLAGS = {
    "output_dir": "this script sets it from --output_dir and the run's name",
    "resume": "this script sets it",
    "seed": "list seeds under 'seeds'",
    "config": "write that file's flags here, so that changes to them are noticed",
}


@dataclass
class AblationArguments:
    """The runs to compare, and the output directory."""

    plan: Path = field(metadata={"help": "YAML file of the runs"})
    output_dir: Path = command_line.flag(Path("outputs/ablation"), "where everything is written")
    launcher: Literal["python", "accelerate"] = command_line.flag(
        "python", "accelerate: start runs by `accelerate launch`, with the settings of `accelerate config`"
    )
    jobs: int = command_line.flag(1, "runs at once; give each its part of the cores by the plan's cpu_threads")

    def __post_init__(self) -> None:
        command_line.check_bounds(self, {1: ["jobs"]})


@dataclass(frozen=True)
class Run:
    """One training run: a variant of the file with one seed.

    Args:
        name: name of the variant; its seeds share a row of the table.
        flags: flags of `mult-hf train`, including the seed.
        directory: output directory.
    """

    name: str
    flags: dict[str, Any]
    directory: Path


@dataclass(frozen=True)
class Result:
    """Results of a variant so far; lists have one number per finished seed.

    Args:
        flags: flags of `mult-hf train`, without the seed.
        values: metrics by "task/metric", as in metrics.json.
        parameters: number of the model's parameters.
        minutes: duration of training.
        gains: multi-task gain over the reference runs in percent; NaN where no task has a reference.
    """

    flags: dict[str, Any]
    values: dict[str, list[float]]
    parameters: int
    minutes: list[float]
    gains: list[float]


# --- the file ---


def read_plan(path: Path, output_dir: Path) -> tuple[list[Run], list[str]]:
    """Read the runs of a file, starting with all runs of the first seed, and the names of the reference runs.

    Raises:
        ValueError: if a key or a reference is unknown, there is no run, a run has a flag that this script sets, or two runs have
            the same directory.
    """
    content = yaml.safe_load(path.read_text()) or {}
    if set(content) - set(KEYS):
        raise ValueError(f"{path} has {sorted(set(content) - set(KEYS))}; allowed: {', '.join(KEYS)}")
    base, variants = content.get("base") or {}, {**named(content.get("runs") or {}), **combinations(content.get("grid") or {})}
    reference = content.get("reference") or []
    reference = [reference] if isinstance(reference, str) else reference
    if not variants or set(reference) - set(variants):
        raise ValueError(f"{path} has the runs {list(variants)} and the reference {reference}; give a run, and references among the runs")
    runs = []
    for seed, (name, differing) in itertools.product(content.get("seeds") or [None], variants.items()):
        flags = {flag: value for flag, value in {**base, **(differing or {})}.items() if value is not None}
        for flag in flags.keys() & OWN_FLAGS:
            raise ValueError(f"run {name!r} has the flag {flag!r}; {OWN_FLAGS[flag]}")
        directory = slug(name) if seed is None else f"{slug(name)}-seed-{seed}"
        runs.append(Run(name, flags if seed is None else {**flags, "seed": seed}, output_dir / directory))
    for one, other in itertools.combinations(runs, 2):
        if one.directory == other.directory:
            raise ValueError(f"runs {one.name!r} and {other.name!r} would both be written to {one.directory}; rename one, or drop a seed")
    return runs, reference


def named(variants: Mapping[Any, Any]) -> dict[str, Any]:
    """Convert names to text, because YAML reads a name such as 3 as a number."""
    return {str(name): differing for name, differing in variants.items()}


def combinations(grid: Mapping[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """One variant for every combination of the flags' values, named after them.

    Raises:
        ValueError: if a flag has no list of values.
    """
    for flag, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid has {flag}: {values!r}; give a list of values")
    variants = {}
    for values in itertools.product(*grid.values()) if grid else []:
        name = ", ".join(f"{flag} {' '.join(map(str, value if isinstance(value, list) else [value]))}" for flag, value in zip(grid, values))
        variants[name] = dict(zip(grid, values))
    return variants


def slug(name: str) -> str:
    """Convert a name to a directory name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def known_flags() -> set[str]:
    """The flags of `mult-hf train`."""
    help_text = subprocess.run([sys.executable, *TRAIN, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"^ +--(\w+)", help_text, re.MULTILINE))  # not flags mentioned in a help text


def check(runs: Iterable[Run], flags: set[str]) -> None:
    """Check all runs before any training.

    Raises:
        ValueError: if `mult-hf train` does not have one of the flags, or a directory was written with other flags.
    """
    for run in runs:
        for flag in run.flags.keys() - flags:
            close = difflib.get_close_matches(flag, flags, n=1)
            hint = f"; {close[0]!r}?" if close else ""
            raise ValueError(f"run {run.name!r} has the flag {flag!r}, which mult-hf train does not have{hint}")
        if run.directory.exists():
            check_same_flags(run)


def check_same_flags(run: Run) -> None:
    """Reject results that were computed with other flags."""
    record = run.directory / "ablation.json"
    if not record.is_file():
        raise ValueError(f"{run.directory} exists, but is not a run of an ablation; choose another --output_dir")
    before = json.loads(record.read_text())
    changes = [
        f"{flag}: {before.get(flag, 'default')} -> {run.flags.get(flag, 'default')}"
        for flag in sorted(before.keys() | run.flags.keys())
        if before.get(flag) != run.flags.get(flag)
    ]
    if changes:
        raise ValueError(f"{run.directory} was written with other flags ({'; '.join(changes)}); rename the run, or remove that directory")


# --- the runs ---


def finished_metrics(run: Run) -> dict[str, Any] | None:
    """The contents of metrics.json, or None if the run is not finished."""
    try:
        numbers = json.loads((run.directory / "metrics.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # a run that is killed while writing leaves a partial file
        return None
    return numbers | {"model": {name: math.nan if value is None else value for name, value in numbers["model"].items()}}


def command(run: Run, launcher: str) -> list[str]:
    """The command line that starts or continues a run."""
    argv = [*LAUNCHERS[launcher], *TRAIN, "--output_dir", str(run.directory)]
    for flag, value in run.flags.items():
        argv += command_line.as_argv(flag, value)
    return [*argv, "--resume", "latest"]


def execute(run: Run, argv: list[str]) -> str | None:
    """Train in a separate process; returns None, or a description of the failure."""
    run.directory.mkdir(parents=True, exist_ok=True)
    with whole_file(run.directory / "ablation.json") as unfinished:
        unfinished.write_text(json.dumps(run.flags, indent=2) + "\n")
    log_path = run.directory / "log.txt"
    with log_path.open("a") as log:
        status = subprocess.run(argv, stdout=log, stderr=subprocess.STDOUT).returncode
    if status == 0 and finished_metrics(run) is not None:
        return None
    last = log_path.read_text().strip().splitlines()[-1:] or ["nothing printed"]
    return f"exit status {status}: {last[0]} (full log: {log_path})"


def completed(pool: Executor, runs: Iterable[Run], launcher: str) -> Iterator[tuple[Run, str | None]]:
    """Train runs, as many at once as the pool takes; yields each when it ends, with what went wrong."""
    running = {pool.submit(execute, run, command(run, launcher)): run for run in runs}
    for done in as_completed(running):
        yield running[done], done.result()


# --- the comparison ---


def collect(runs: Iterable[Run], reference: list[str]) -> tuple[dict[str, Result], dict[str, TaskSpec]]:
    """Results by variant, and the entries of all their tasks.

    A run's gain is computed over the tasks that it shares with the reference runs. Each task is compared with the first reference
    run that has it, averaged over seeds.
    """
    finished = [(run, numbers) for run in runs if (numbers := finished_metrics(run)) is not None]
    specs: dict[str, TaskSpec] = {}
    grouped: dict[str, list[tuple[Run, dict[str, Any]]]] = {}
    for run, numbers in finished:
        specs |= resolve_tasks(json.loads((run.directory / "config.json").read_text())["tasks"])
        grouped.setdefault(run.name, []).append((run, numbers))
    values = {
        name: {metric: [numbers["model"][metric] for _, numbers in members] for metric in members[0][1]["model"]}
        for name, members in grouped.items()
    }
    against: dict[str, float] = {}
    for name in reference:
        against = {metric: mean(seeds) for metric, seeds in values.get(name, {}).items()} | against
    return {
        name: Result(
            flags={flag: value for flag, value in members[0][0].flags.items() if flag != "seed"},
            values=values[name],
            parameters=int(str(members[0][1]["parameters"]).replace(",", "")),
            minutes=[numbers["minutes"] for _, numbers in members],
            gains=[gain(numbers["model"], against, specs) for _, numbers in members],
        )
        for name, members in grouped.items()
    }, specs


def gain(values: Mapping[str, float], reference: Mapping[str, float], specs: Mapping[str, TaskSpec]) -> float:
    """Multi-task gain in percent over the common tasks; NaN if there are none."""
    common = {task: spec for task, spec in specs.items() if {headline(spec)} <= values.keys() & reference.keys()}
    return gain_over(values, reference, common)


def headline(spec: TaskSpec) -> str:
    """Name of a task's first metric in metrics.json."""
    return f"{spec.name}/{spec.metrics[0]}"


def higher_is_better(spec: TaskSpec) -> bool:
    """Whether a higher value of a task's headline metric is better."""
    return next(iter(metrics_of(spec).values())).higher_is_better


def mean(numbers: Iterable[float]) -> float:
    """Mean over the seeds with a known value; NaN if there are none."""
    known = [number for number in numbers if not math.isnan(number)]
    return statistics.fmean(known) if known else math.nan


def spread(numbers: Iterable[float]) -> float:
    """Standard deviation over the seeds with a known value; 0 for a single one."""
    known = [number for number in numbers if not math.isnan(number)]
    return statistics.stdev(known) if len(known) > 1 else 0.0


def columns(results: Mapping[str, Result], specs: Mapping[str, TaskSpec]) -> dict[str, tuple[dict[str, list[float]], bool]]:
    """Columns of the comparison by title: the seeds' numbers by variant, and whether higher is better."""
    compared = {
        headline(spec).replace("/", " "): (
            {name: result.values[headline(spec)] for name, result in results.items() if headline(spec) in result.values},
            higher_is_better(spec),
        )
        for spec in specs.values()
    }
    gains = {name: result.gains for name, result in results.items() if not math.isnan(mean(result.gains))}
    return compared | ({"multi-task gain [%]": (gains, True)} if gains else {})


def best_of(numbers: Mapping[str, list[float]], higher: bool) -> str | None:
    """The variant with the best known mean, if any."""
    means = {name: mean(seeds) for name, seeds in numbers.items() if not math.isnan(mean(seeds))}
    return (max if higher else min)(means, key=means.__getitem__, default=None)


def table(results: Mapping[str, Result], specs: Mapping[str, TaskSpec], reference: list[str]) -> str:
    """Markdown table: one row per variant with mean and standard deviation over its seeds, the best of each column in bold."""
    compared = columns(results, specs)
    best = {title: best_of(*column) for title, column in compared.items()}
    titles = [f"{title} ({'higher' if higher else 'lower'} is better)" for title, (_, higher) in compared.items()]
    rows = []
    for name, result in results.items():
        cells = [cell(numbers.get(name, []), bold=best[title] == name) for title, (numbers, _) in compared.items()]
        sizes = [f"{result.parameters:,}", f"{mean(result.minutes):.1f}", str(len(result.minutes))]
        rows.append([name, *cells, *sizes])
    notes = ["", "Numbers are means over seeds, with ± the standard deviation if there are several."]
    notes += [f"The gain is computed over the tasks that a run shares with: {', '.join(reference)}."] if reference else []
    return "\n".join([markdown_table(["run", *titles, "parameters", "minutes", "seeds"], rows), *notes]) + "\n"


def cell(seeds: list[float], *, bold: bool) -> str:
    """One cell of the table; empty if the run has no value."""
    if not seeds:
        return ""
    text = f"{mean(seeds):.4g}" + (f" ± {spread(seeds):.2g}" if len(seeds) > 1 else "")
    return f"**{text}**" if bold else text


def plot(results: Mapping[str, Result], specs: Mapping[str, TaskSpec], path: Path) -> None:
    """One panel per task, one line per variant, in the order of the file; further right is better in every panel."""
    compared, names = columns(results, specs), list(results)
    figure = Figure(figsize=(2 + 2.6 * len(compared), 1.4 + 0.3 * len(names)), layout="constrained")
    for axes, (title, (numbers, higher)) in zip(figure.subplots(1, len(compared), sharey=True, squeeze=False)[0], compared.items()):
        best = best_of(numbers, higher)
        for name, seeds in numbers.items():
            color = "tab:green" if name == best else "tab:gray"
            axes.errorbar(mean(seeds), names.index(name), xerr=spread(seeds), fmt="o", color=color, capsize=3)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("higher is better" if higher else "lower is better, axis flipped", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.set_yticks(range(len(names)), names)
        if not higher:
            axes.invert_xaxis()
    axes.set_ylim(len(names) - 0.5, -0.5)  # shared by all panels; the file's first run is on top
    figure.suptitle("further right is better; green is best", fontsize=9)
    figure.savefig(path, dpi=120)


def write_comparison(runs: list[Run], reference: list[str], output_dir: Path) -> str:
    """Write table.md, plot.png and results.json from the finished runs; returns the table."""
    results, specs = collect(runs, reference)
    if not results:
        return "no run is finished\n"
    contents = {
        name: {
            "flags": result.flags,
            "parameters": result.parameters,
            "minutes": result.minutes,
            "gain_percent": result.gains,
            "values": {
                metric: {"seeds": seeds, "mean": mean(seeds), "standard_deviation": spread(seeds)}
                for metric, seeds in result.values.items()
            },
        }
        for name, result in results.items()
    }
    with whole_file(output_dir / "results.json") as unfinished:
        unfinished.write_text(json.dumps(to_jsonable({"reference": reference, "runs": contents}), indent=2) + "\n")
    text = table(results, specs, reference)
    with whole_file(output_dir / "table.md") as unfinished:
        unfinished.write_text(text)
    plot(results, specs, output_dir / "plot.png")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Train unfinished runs, and compare finished ones.

    Args:
        argv: the flags; by default those of this process.

    Returns:
        The exit status, 1 if a run failed.
    """
    arguments = command_line.parse_arguments(AblationArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    runs, reference = read_plan(arguments.plan, arguments.output_dir)
    check(runs, known_flags())
    waiting = [run for run in runs if finished_metrics(run) is None]
    failures = {}
    pool = ThreadPoolExecutor(arguments.jobs)  # each thread waits for the process of a run
    # The bar starts after the finished runs, so that the estimated time only includes the others.
    with tqdm(total=len(runs), initial=len(runs) - len(waiting), unit="run") as bar:
        try:
            for run, failure in completed(pool, waiting, arguments.launcher):
                if failure is not None:
                    failures[run.directory.name] = failure
                    bar.write(f"{run.directory.name} failed, {failure}", file=sys.stderr)
                write_comparison(runs, reference, arguments.output_dir)
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)  # an interruption starts no further run
    print(write_comparison(runs, reference, arguments.output_dir))
    for name, failure in failures.items():
        print(f"failed: {name}, {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
