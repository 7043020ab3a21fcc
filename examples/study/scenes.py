"""Measure the runs of scenes.yaml on photographs: which groups of varied properties of rendered rooms help there.

    python -m examples.study.scenes --runs outputs/scenes --photos photos --results outputs/scenes.json
    python -m examples.study.scenes --results examples/study/results/scenes.json --page docs/results.md

`photos` is a directory of data sets of photographs with a column `focal`; the splits `validation` are measured, as by `mult-hf evaluate`.
Measurements that the file of results has are not repeated. The table replaces what stands between the page's lines
`<!-- generated: scenes -->` and `<!-- end -->`.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mult_hf.cli import arguments as command_line
from mult_hf.cli.evaluate import main as evaluate
from mult_hf.data.files import whole_file
from mult_hf.data.markdown import markdown_table

from .report import HERE, with_part

METRICS = {
    "depth/delta1_median_scaled": "depth within 25 %, median-scaled ↑",
    "depth/abs_rel_median_scaled": "AbsRel, median-scaled ↓",
    "depth/delta1": "depth within 25 %, in metres ↑",
    "normals/median_angle": "normals, median angle (degrees) ↓",
    "reshading/mae": "reshading MAE ↓",
}
"""Columns of the table."""

ALL = "all"
"""The run with which the others are compared."""

Measured = dict[str, dict[str, float]]
"""Metrics by set of photographs."""


@dataclass
class ScenesArguments:
    """What is measured, and where the table goes."""

    results: Path = command_line.flag(HERE / "results/scenes.json", "JSON file of all measurements; read, and written with --runs")
    runs: Path | None = command_line.flag(None, "directory of `ablation.py`; by default nothing is measured")
    photos: Path | None = command_line.flag(None, "directory of data sets of photographs")
    page: Path | None = command_line.flag(None, "page whose table is replaced; printed by default")

    def __post_init__(self) -> None:
        if (self.runs is None) != (self.photos is None):
            raise ValueError("--runs and --photos belong together; give both to measure, or neither to make the table of --results")


def measure(model: Path, photos: Path) -> Measured:
    """The metrics of a model on each set of photographs, and of their constant baseline under the name "constant"."""
    with TemporaryDirectory() as directory:
        settings = ["--split", "validation", "--baseline_split", "validation", "--focal_length_column", "focal", "--batch_size", "1"]
        evaluate(["--model", str(model), "--dataset", str(photos), "--output_dir", directory, *settings])
        found = {path.parent.name: json.loads(path.read_text()) for path in sorted(Path(directory).glob("*/results.json"))}
    sets = {name: {metric: numbers["model"][metric] for metric in METRICS} for name, numbers in found.items()}
    return sets | {f"constant {name}": {each: numbers["constant_baseline"][each] for each in METRICS} for name, numbers in found.items()}


def measure_all(runs: Path, photos: Path, results: Path) -> None:
    """Measure every finished run of which there is no result yet, and write each result at once."""
    known = json.loads(results.read_text()) if results.is_file() else {}
    for model in sorted(path.parent for path in runs.glob("*/metrics.json")):
        if model.name not in known:
            known[model.name] = measure(model, photos)
            with whole_file(results) as unfinished:
                unfinished.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def by_run(results: Mapping[str, Measured]) -> dict[str, list[Measured]]:
    """The measurements of each run, one per seed, in the order of the seeds; names as `ablation.py` writes them, with dashes."""
    found: dict[str, dict[int, Measured]] = {}
    for name, measured in results.items():
        run, _, seed = name.partition("-seed-")
        found.setdefault(run, {})[int(seed)] = measured
    return {run: [seeds[seed] for seed in sorted(seeds)] for run, seeds in found.items()}


def cell(values: Sequence[float], reference: Sequence[float] | None) -> str:
    """Mean and standard deviation over seeds; bold where every seed is on the same side of the reference's."""
    text = f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.2g}"
    if reference is None:
        return text
    differences = [value - other for value, other in zip(values, reference, strict=True)]
    return f"**{text}**" if min(differences) > 0 or max(differences) < 0 else text


def scenes_table(results: Mapping[str, Measured]) -> str:
    """Markdown: one row per run and set of photographs, those of [`ALL`] first, and of the constant baseline."""
    runs = by_run(results)
    sets = [name for name in runs[ALL][0] if not name.startswith("constant ")]
    rows = []
    for name in sets:
        constant = runs[ALL][0][f"constant {name}"]
        rows.append([name, "constant baseline", *(f"{constant[metric]:.3g}" for metric in METRICS)])
        for run in sorted(runs, key=lambda run: (run != ALL, run != "none", run)):
            values = {metric: [seed[name][metric] for seed in runs[run]] for metric in METRICS}
            reference = {metric: None if run == ALL else [seed[name][metric] for seed in runs[ALL]] for metric in METRICS}
            rows.append([name, run.replace("-", " "), *(cell(values[metric], reference[metric]) for metric in METRICS)])
    return markdown_table(["photographs", "rooms vary in", *METRICS.values()], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and make the table, as the command line says."""
    arguments = command_line.parse_arguments(ScenesArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    if arguments.runs is not None and arguments.photos is not None:
        measure_all(arguments.runs, arguments.photos, arguments.results)
    table = scenes_table(json.loads(arguments.results.read_text()))
    if arguments.page is None:
        print(table)
    else:
        arguments.page.write_text(with_part(arguments.page.read_text(), "scenes", table))


if __name__ == "__main__":
    main()
