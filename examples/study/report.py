"""Make the tables and plots of docs/evidence.md and docs/evidence-details.md from the results of a study.

    python -m examples.study.report --first examples/study/results/main_table --longer examples/study/results/longer \
      --pretrained examples/study/results/pretrained --pretrained_rates examples/study/results/pretrained_rates \
      --pretrained_steps examples/study/results/pretrained_steps \
      --local_tasks examples/study/results/local_tasks --page docs/evidence.md docs/evidence-details.md --images docs/images

Tables replace what stands between the pages' lines `<!-- generated: NAME -->` and `<!-- end -->`; together the pages have each
part once. Plots are written as `evidence-NAME.png`. Everything follows from the committed JSON files; nothing is trained or rendered.
"""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mult_hf.cli import arguments as command_line
from mult_hf.data.markdown import markdown_table
from mult_hf.model.tasks import registered_tasks

from . import plots, rooms, why_report
from .differences import Measured, Row, difference, mean_difference
from .rates import ALONE, TOGETHER, chosen_rates, equal_rates_table, rate_table, wider_table
from .tables import Pair, best_row, cell, devices, settings_table, title

RESAMPLES = 10_000
SECONDS_FILE = "seconds.json"
HERE = Path(__file__).parent
FURTHER = ("longer", "pretrained", "pretrained_rates", "pretrained_steps", "local_tasks")
"""Flags and fields of further results, and their directories in `results/`."""
OWN_PARTS = ("again", "why", "why_references", "transfer")
"""Directories of further results inside those of a study."""
PLAN = HERE / "ablations/wide_rates.yaml"
OF_OTHERS = ("pairs", "groups", "few_labels")
"""Generated parts of the pages that other scripts make: pairs.py and few_labels_report.py."""

REFERENCE = "single-task with skip"
"""The row that gains in the main table are relative to."""

COMPARISONS: dict[str, tuple[str, str]] = {
    "sharing, maps from the encoder": ("MulT with skip", "own maps with skip"),
    "sharing, against maps of each task's own stream": ("MulT with skip", "no sharing with skip"),
    "maps from the encoder or from each task's own stream, without sharing": ("own maps with skip", "no sharing with skip"),
    "sharing, the paper's blocks, maps from the encoder": ("MulT", "own maps"),
    "sharing, the paper's blocks, against maps of each task's own stream": ("MulT", "no sharing"),
    "the same two sources of maps, the paper's blocks": ("own maps", "no sharing"),
    "six tasks together, against one network per task": ("MulT with skip", "single-task with skip"),
    "the same at equal time": ("MulT with skip", "single-task with skip, half the steps"),
    "the same with the paper's blocks": ("MulT", "single-task"),
    "six decoders on one encoder without sharing, against one network per task": ("no sharing with skip", "single-task with skip"),
    "six decoders with own maps, against one network per task": ("own maps with skip", "single-task with skip"),
    "encoder map in the values": ("MulT with skip", "MulT"),
    "the same without sharing": ("own maps with skip", "own maps"),
    "against the authors' head": ("MulT with skip", "authors' head"),
    "the paper's blocks, against the authors' head": ("MulT", "authors' head"),
    "against MTAN": ("MulT with skip", "MTAN"),
    "one decoder trunk for six tasks, against one network per task": ("MTAN", "single-task with skip"),
    "against Swin-Unet": ("MulT with skip", "Swin-Unet"),
    "sharing in Swin-Unet, maps from the encoder": ("Swin-Unet with a shared map", "Swin-Unet with own maps"),
    "sharing in Swin-Unet, against maps of each task's own stream": ("Swin-Unet with a shared map", "Swin-Unet"),
    "Swin-Unet for six tasks, against one network per task": ("Swin-Unet", "single-task with skip"),
    "the same with equal decoders": ("Swin-Unet", "single-task Swin-Unet"),
    "a shared map for six tasks, against one network per task with equal decoders": (
        "Swin-Unet with a shared map",
        "single-task Swin-Unet",
    ),
    "the decoder of a single task": ("single-task Swin-Unet", "single-task with skip"),
    "against cross-task attention": ("MulT with skip", "cross-task attention"),
    "cross-task attention for six tasks, against one Swin-Unet per task": ("cross-task attention", "single-task Swin-Unet"),
    "cross-task attention, against Swin-Unet with a shared map": ("cross-task attention", "Swin-Unet with a shared map"),
}
"""What is compared: the first row against the second; comparisons with a missing row are left out."""

ORDER = list(dict.fromkeys(name for pair in COMPARISONS.values() for name in pair))
"""Rows in the order in which the tables show them."""

LONGER: Pair = (TOGETHER, ALONE)
"""Rows that were also trained for more steps: six tasks together, and one network per task."""
CROSS_TASK: Pair = ("cross-task attention", ALONE)
"""The same with the best network for six tasks with a pretrained encoder."""

HALF = "single-task Swin-Unet, half the steps"
"""The row of one network per task that takes about as long as six tasks together."""

OWN_MAPS = "Swin-Unet with own maps"
"""The counterpart of six tasks together that computes one attention map per task."""

OF_NORMALS = "MulT with skip"
"""The row whose reference task is normals; rows called `reference TASK` differ from it in the reference task only."""

TRANSFERRED: dict[str, tuple[str, str]] = {
    "sharing": ("Swin-Unet with a shared map", "Swin-Unet"),
    "several tasks together": ("Swin-Unet with a shared map", "single-task Swin-Unet"),
}
"""What is compared in another domain."""

TRANSFERS = {
    "frozen": "Doom, none (frozen)",
    "50": "Doom, 50",
    "all": "Doom, 500",
    "office-frozen": "office, none (frozen)",
    "office-60": "office, 60",
    "kitchen-frozen": "kitchen, none (frozen)",
}
"""Directories in `transfer/`: the new domain, and how many of its views the networks were trained on."""


@dataclass
class ReportArguments:
    """Where results lie, and what is made of them."""

    results: Path = command_line.flag(HERE / "results/wide_rates", "directory of the networks' JSON files")
    first: Path | None = command_line.flag(None, "directory of an earlier study, for what `--results` lacks")
    longer: Path | None = command_line.flag(None, "directory of the results with other numbers of steps")
    pretrained: Path | None = command_line.flag(None, "directory of the results with a pretrained encoder")
    pretrained_rates: Path | None = command_line.flag(None, "directory of those with several learning rates")
    pretrained_steps: Path | None = command_line.flag(None, "directory of those with more and fewer steps")
    local_tasks: Path | None = command_line.flag(None, "directory of the results with heavier losses of the local tasks")
    page: list[Path] | None = command_line.flag(None, "pages whose generated parts are replaced; printed by default")
    images: Path | None = command_line.flag(None, "directory for the plots; none by default")


# --- reading ---


def read_rows(directory: Path, resamples: int = RESAMPLES) -> dict[str, Row]:
    """The rows of the main table, in the order of [`COMPARISONS`] where they are in it.

    Raises:
        ValueError: if there is no result, or the networks were not tested on the same rooms.
    """
    results = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json")) if path.name != SECONDS_FILE]
    if not results:
        raise ValueError(f"{directory} has no results; train some with examples.study.train_stacks")
    numbers = {
        len(next(iter(sums.values()))["count" if "count" in next(iter(sums.values())) else "true"]) for r in results for sums in r["rooms"]
    }
    if len(numbers) > 1:
        raise ValueError(f"the results of {directory} are of {sorted(numbers)} rooms; measure all on one test split")
    draws = rooms.draw_rooms(numbers.pop(), resamples)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        grouped.setdefault(result["row"], []).append(result)
    return {name: Row(name, grouped[name], measured_tasks(grouped[name], draws)) for name in sorted(grouped, key=place)}


def place(name: str) -> tuple[int, str]:
    """Sort key of a row: the order of [`COMPARISONS`], then the others by name."""
    return ORDER.index(name) if name in ORDER else len(ORDER), name


def measured_tasks(networks: Sequence[Mapping[str, Any]], draws: np.ndarray) -> dict[str, Measured]:
    """What the networks of a row measured, by task in the usual order."""
    found = {}
    for network in networks:
        seeds = [rooms.from_json(sums) for sums in network["rooms"]]
        metrics = dict(name.split("/") for name in network["test"][0])
        found |= {task: Measured(metric, [sums[task] for sums in seeds], draws) for task, metric in metrics.items()}
    return {task: found[task] for task in registered_tasks() if task in found}


# --- tables ---


def main_table(rows: Mapping[str, Row], seconds: Mapping[str, float], reference: str = REFERENCE) -> str:
    """Markdown: mean and standard deviation over seeds, gain over the reference row, and what a network costs."""
    tasks = list(dict.fromkeys(task for row in rows.values() for task in row.tasks))
    titles = [f"{task} {title(task, rows)}" for task in tasks]
    gain = [f"gain over {reference} [%]"] if reference in rows else []
    costs = ["parameters", "GFLOPs", *(["ms per step"] if seconds else []), "trained on"]
    lines = []
    best = {task: best_row(rows, task) for task in tasks}
    for name, row in rows.items():
        cells = [cell(row.tasks[task], bold=best[task] == name) if task in row.tasks else "" for task in tasks]
        cells += [mean_difference(row, rows[reference]).text if name != reference else "0"] if gain else []
        cells += [f"{row.total('parameters'):,}", f"{row.total('flops') / 1e9:.2f}"]
        known = [seconds.get(network["name"], math.nan) for network in row.networks]
        cells += [f"{1000 * sum(known):.0f}" if math.isfinite(sum(known)) else ""] if seconds else []
        lines.append([name, *cells, devices(row)])
    return markdown_table(["network", *titles, *gain, *costs], lines)


def comparison_table(rows: Mapping[str, Row]) -> str:
    """Markdown: every comparison whose rows exist, task by task."""
    tasks = list(dict.fromkeys(task for row in rows.values() for task in row.tasks))
    lines = []
    for question, (one, other) in present(rows).items():
        cells = [difference(one.tasks[task], other.tasks[task]).text if task in one.tasks and task in other.tasks else "" for task in tasks]
        lines.append([question, f"{one.name} over {other.name}", *cells, mean_difference(one, other).text])
    return markdown_table(["question", "better by [%]", *tasks, "all six"], lines)


def present(rows: Mapping[str, Row]) -> dict[str, tuple[Row, Row]]:
    """The comparisons of which both rows have results."""
    return {question: (rows[one], rows[other]) for question, (one, other) in COMPARISONS.items() if {one, other} <= rows.keys()}


def reference_table(rows: Mapping[str, Row], again: Mapping[str, Row]) -> str:
    """Markdown: normals as the reference task against others, trained on the same kind of device where there are several trainings.

    Args:
        rows: the results.
        again: results of rows that were trained a second time.
    """
    of_normals = [found[OF_NORMALS] for found in (rows, again) if OF_NORMALS in found]
    lines = []
    for name, row in rows.items():
        if name.startswith("reference "):
            one = next((each for each in of_normals if devices(each) == devices(row)), of_normals[0])
            cells = [difference(one.tasks[task], measured).text for task, measured in row.tasks.items()]
            lines.append([name.removeprefix("reference "), f"{devices(one)}, {devices(row)}", *cells, mean_difference(one, row).text])
    tasks = list(rows[OF_NORMALS].tasks)
    return markdown_table(
        ["normals are a better reference task than", "trained on", *(f"by [%], {task}" for task in tasks), "all six"], lines
    )


def transfer_table(transfers: Mapping[str, Mapping[str, Row]]) -> str:
    """Markdown: the metrics of networks in another domain, by the number of its views that they were trained on.

    Args:
        transfers: rows by directory of [`TRANSFERS`].
    """
    tasks = list(dict.fromkeys(task for rows in transfers.values() for row in rows.values() for task in row.tasks))
    titled = {name: row for rows in transfers.values() for name, row in rows.items()}
    lines = []
    for views, rows in transfers.items():
        best = {task: best_row(rows, task) for task in tasks if any(task in row.tasks for row in rows.values())}
        for name, row in rows.items():
            lines.append([TRANSFERS[views], name, *(cell(row.tasks[t], bold=best[t] == name) if t in row.tasks else "" for t in tasks)])
    return markdown_table(["domain, views", "network", *(f"{task} {title(task, titled)}" for task in tasks)], lines)


def transfer_differences(transfers: Mapping[str, Mapping[str, Row]]) -> str:
    """Markdown: the comparisons of [`TRANSFERRED`], by domain and number of views; arguments of [`transfer_table`]."""
    tasks = list(dict.fromkeys(task for rows in transfers.values() for row in rows.values() for task in row.tasks))
    lines = []
    for views, rows in transfers.items():
        for question, (one, other) in TRANSFERRED.items():
            if {one, other} <= rows.keys():
                first, second = rows[one].tasks, rows[other].tasks
                cells = [difference(first[task], second[task]).text if task in first and task in second else "" for task in tasks]
                lines.append([TRANSFERS[views], f"{question}: {one} over {other}", *cells, mean_difference(rows[one], rows[other]).text])
    return markdown_table(["domain, views", "better by [%]", *tasks, "mean"], lines)


def repeat_table(rows: Mapping[str, Row], again: Mapping[str, Row]) -> str:
    """Markdown: differences between two trainings of a row with the same seeds on different devices."""
    tasks = list(dict.fromkeys(task for row in again.values() for task in row.tasks))
    lines = []
    for name, row in again.items():
        cells = [difference(row.tasks[task], rows[name].tasks[task]).text if task in row.tasks else "" for task in tasks]
        lines.append([name, f"{devices(row)} over {devices(rows[name])}", *cells, mean_difference(row, rows[name]).text])
    return markdown_table(["network", "better by [%]", *tasks, "mean"], lines)


def longer_table(rows: Mapping[str, Row], longer: Mapping[str, Row], pair: Pair = LONGER) -> str:
    """Markdown: six tasks together and one network per task after their usual number of steps, and after more."""
    together, alone = pair
    short, long = (f"{found[together].networks[0]['steps']:,} steps" for found in (rows, longer))
    named = {f"{name}, {steps}": found[name] for steps, found in ((short, rows), (long, longer)) for name in pair if name in found}
    settings = {steps: (f"{together}, {steps}", f"{alone}, {steps}") for steps in (short, long)}
    if HALF in longer:
        named[HALF] = longer[HALF]
        half = f"{longer[HALF].networks[0]['steps']:,} steps"
        settings = {f"{short} together, {half} alone": (f"{together}, {short}", HALF), **settings}
    networks = {together: "six tasks together, better by [%]", alone: "one network per task, better by [%]"}
    across = {(f"{long}, against {short}", text): (f"{name}, {long}", f"{name}, {short}") for name, text in networks.items()}
    return settings_table("steps", named, settings, across)


def pretrained_table(rows: Mapping[str, Row], new: Mapping[str, Row]) -> str:
    """Markdown: the rows of [`LONGER`] with a pretrained encoder, and compared with own maps and with a new encoder.

    Args:
        rows: with a pretrained encoder.
        new: with a new one.
    """
    together, found = LONGER[0], dict(rows)
    steps = f"{rows[together].networks[0]['steps']:,} steps"
    across = {(steps, "a shared map better than own maps by [%]"): (together, OWN_MAPS)}
    if together in new:
        found["new"] = new[together]
        against = f"{steps}, against {new[together].networks[0]['steps']:,} of a new encoder"
        across[against, "six tasks together, better by [%]"] = (together, "new")
    return settings_table("steps", found, {steps: LONGER}, across)


def gains_table(rows: Mapping[str, Row], reference: Row) -> str:
    """Markdown: how much better each row is than a reference row, task by task, and what it costs."""
    tasks = list(reference.tasks)
    lines = []
    for name, row in rows.items():
        cells = [difference(row.tasks[task], reference.tasks[task]).text for task in tasks]
        lines.append([name, chosen_rates(row), *cells, mean_difference(row, reference).text, f"{row.total('parameters'):,}", devices(row)])
    return markdown_table([f"better than {reference.name} by [%]", "rate", *tasks, "all six", "parameters", "trained on"], lines)


def facts(rows: Mapping[str, Row]) -> str:
    """Markdown: how much was trained, on what, and what of the plan was not."""
    networks = [network for row in rows.values() for network in row.networks]
    trained = sum(network["networks"] for network in networks)
    steps = sum(network["networks"] * network["steps"] for network in networks)
    names = sorted({network["device"] for network in networks})
    seeds = sorted({len(network["seeds"]) for network in networks})
    tried = [network for network in networks if len(network["learning_rates"]) > 1]
    edges = {edge: sum(n["chosen"] == edge(map(float, n["learning_rates"])) for n in tried) for edge in (max, min)}
    missing = [name for name in yaml.safe_load(PLAN.read_text())["networks"] if name not in rows]
    return (
        f"{trained} trainings ({steps:,} optimizer steps) of {len(networks)} architectures on {', '.join(names)}; {seeds[-1]} seeds, "
        f"{len(networks[0]['learning_rates'])} learning rates; {max(network['steps'] for network in networks):,} steps each; "
        f"{len(next(iter(next(iter(rows.values())).tasks.values())).draws[0])} test rooms, {RESAMPLES:,} resamples. "
        f"The best learning rate is the highest one tried for {edges[max]} of the {len(tried)} architectures that have several, and the "
        f"lowest for {edges[min]}.\n\n"
        f"**Planned, and not trained in this study**: {'; '.join(missing) or 'nothing'}."
    )


# --- the pages ---


@dataclass(frozen=True)
class Study:
    """Everything that the pages show.

    Args:
        rows: the results.
        seconds: seconds per step of each network.
        first: rows of an earlier study with fewer learning rates. Those that are compared and are not in `rows` are shown with them.
        again: results of rows of the first study that were trained a second time, on another device.
        why: the result of `why_report.read_why`.
        why_references: the same of networks that differ in their reference task.
        transfers: results in another domain, by directory of [`TRANSFERS`].
        longer: rows of [`LONGER`], trained for more steps, and of [`HALF`].
        pretrained: rows with a pretrained encoder.
        pretrained_rates: the same with several learning rates.
        pretrained_steps: those of [`LONGER`], [`CROSS_TASK`] and [`HALF`] with a pretrained encoder and more or fewer steps.
        local_tasks: rows with heavier losses of local tasks.
    """

    rows: Mapping[str, Row]
    seconds: Mapping[str, float] = field(default_factory=dict)
    first: Mapping[str, Row] = field(default_factory=dict)
    again: Mapping[str, Row] = field(default_factory=dict)
    why: Mapping[str, Any] | None = None
    why_references: Mapping[str, Any] | None = None
    transfers: Mapping[str, Mapping[str, Row]] = field(default_factory=dict)
    longer: Mapping[str, Row] = field(default_factory=dict)
    pretrained: Mapping[str, Row] = field(default_factory=dict)
    pretrained_rates: Mapping[str, Row] = field(default_factory=dict)
    pretrained_steps: Mapping[str, Row] = field(default_factory=dict)
    local_tasks: Mapping[str, Row] = field(default_factory=dict)

    @property
    def shown(self) -> dict[str, Row]:
        """The rows of the main table."""
        compared = {name: row for name, row in self.first.items() if name in ORDER}
        found = {**compared, **self.rows}
        return {name: found[name] for name in sorted(found, key=place)}


def read_study(results: Path, first: Path | None = None, **others: Path | None) -> Study:
    """Read the results that the command line names; `again`, `why`, `why_references` and `transfer` lie in those of the two studies.

    Args:
        results: directory of the study.
        first: directory of an earlier one.
        others: directories of further results, by field of [`Study`].
    """
    directories = [directory for directory in (results, first) if directory is not None]
    own = {part: [d / part for d in directories if (d / part).is_dir()] for part in OWN_PARTS}
    return Study(
        rows=read_rows(results, RESAMPLES),
        seconds=read_seconds(directories[-1]),
        first=read_rows(first, RESAMPLES) if first else {},
        again=read_rows(own["again"][0], RESAMPLES) if own["again"] else {},
        **{part: why_report.read_why(*own[part]) for part in ("why", "why_references") if own[part]},
        transfers=read_transfers(own["transfer"][0]) if own["transfer"] else {},
        **{name: read_rows(directory, RESAMPLES) for name, directory in others.items() if directory},
    )


def generated(study: Study) -> dict[str, str]:
    """The generated parts of the pages by name; the pages need those for which the study has results."""
    rows, first = study.shown, study.first or study.rows
    parts = {"facts": facts(study.rows), "main": main_table(rows, study.seconds), "comparisons": comparison_table(rows)}
    parts |= {"rates": rate_table(rows), "equal_rates": equal_rates_table(study.rows)}
    if study.first:
        parts["wider"] = wider_table(study.rows, study.first)
    if study.longer:
        parts["longer"] = longer_table(study.rows, study.longer)
    if study.pretrained:
        parts["pretrained_main"] = main_table(study.pretrained, {}, ALONE)
        parts["pretrained_comparisons"] = comparison_table(study.pretrained)
        parts["pretrained"] = pretrained_table(study.pretrained, study.rows)
    if study.pretrained_rates:
        parts["pretrained_rates_main"] = main_table(study.pretrained_rates, {}, ALONE)
        parts["pretrained_rates_comparisons"] = comparison_table(study.pretrained_rates)
        parts["pretrained_rates"] = rate_table(study.pretrained_rates)
        parts["pretrained_equal_rates"] = equal_rates_table(study.pretrained_rates)
        if study.pretrained:
            parts["pretrained_wider"] = wider_table(study.pretrained_rates, study.pretrained)
    if study.pretrained_steps:
        parts["pretrained_longer"] = longer_table(study.pretrained_rates, study.pretrained_steps)
        parts["pretrained_longer_cross"] = longer_table(study.pretrained_rates, study.pretrained_steps, CROSS_TASK)
        parts["pretrained_longer_main"] = main_table(study.pretrained_steps, {}, ALONE)
        parts["pretrained_longer_comparisons"] = comparison_table(study.pretrained_steps)
    if study.local_tasks:
        parts["local_tasks"] = gains_table({TOGETHER: rows[TOGETHER], **study.local_tasks}, rows[ALONE])
    if study.again:
        parts["again"] = repeat_table(first, study.again)
    if any(name.startswith("reference ") for name in first):
        parts["references"] = reference_table(first, study.again)
    if study.transfers:
        parts["transfer"], parts["transferred"] = transfer_table(study.transfers), transfer_differences(study.transfers)
    if study.why:
        parts["distances"] = why_report.distance_table(study.why["distances"])
        parts["own"] = why_report.task_distance_table(study.why["distances"])
        parts["replaced"] = why_report.replacement_table(study.why["metrics"])
        parts["corrupted"] = why_report.corruption_table(study.why["metrics"])
    if study.why_references:
        parts["replaced_references"] = why_report.replacement_table(study.why_references["metrics"])
    return parts


def with_parts(pages: Sequence[str], parts: Mapping[str, str]) -> list[str]:
    """The texts of pages with their generated parts replaced, but those of other scripts.

    Raises:
        ValueError: if a page marks a part that does not exist, or the pages together lack one or have it twice.
    """
    marked = [[name for name in re.findall(r"<!-- generated: (\w+) -->", text) if name not in OF_OTHERS] for text in pages]
    if sorted(found := [name for names in marked for name in names]) != sorted(parts):
        raise ValueError(f"the pages mark the parts {found}; expected each of {', '.join(parts)} once")
    filled = []
    for text, names in zip(pages, marked, strict=True):
        for name in names:
            text = with_part(text, name, parts[name])
        filled.append(text)
    return filled


def with_part(text: str, name: str, part: str) -> str:
    """A page with one generated part replaced.

    Raises:
        ValueError: if the page does not mark this part.
    """
    pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(\n?<!-- end -->)", re.DOTALL)
    text, found = pattern.subn(lambda match: f"{match[1]}{part}\n<!-- end -->", text, count=1)
    if not found:
        raise ValueError(f"the page has no lines <!-- generated: {name} --> and <!-- end -->")
    return text


def read_seconds(directory: Path) -> dict[str, float]:
    """Seconds per step of each network alone, if they were measured."""
    path = directory / SECONDS_FILE
    return json.loads(path.read_text())["seconds_per_step"] if path.is_file() else {}


def read_transfers(directory: Path) -> dict[str, dict[str, Row]]:
    """Results in another domain, by directory of [`TRANSFERS`]; those that do not exist are left out."""
    return {name: read_rows(directory / name, RESAMPLES) for name in TRANSFERS if (directory / name).is_dir()}


def main(argv: Sequence[str] | None = None) -> None:
    """Make tables and plots as the command line says."""
    arguments = command_line.parse_arguments(ReportArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    others = {name: getattr(arguments, name) for name in FURTHER}
    study = read_study(arguments.results, arguments.first, **others)
    parts = generated(study)
    if arguments.page is None:
        print("\n\n".join(parts.values()))
    else:
        texts = with_parts([page.read_text() for page in arguments.page], parts)
        for page, text in zip(arguments.page, texts, strict=True):
            page.write_text(text)
    if arguments.images is not None:
        plots.plot_comparisons([*present(study.shown).values()], arguments.images / "evidence-comparisons.png")
        plots.plot_losses(study.shown, arguments.images / "evidence-losses.png")
        if study.why is not None:
            why_report.plot_maps(study.why, arguments.images / "evidence-maps.png")


if __name__ == "__main__":
    main()
