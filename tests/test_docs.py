"""Proves that the documentation is complete: every page is in the navigation, and its lists match the code."""

import re
from pathlib import Path

import pytest
from mkdocs.config import load_config

import mult_hf
from mult_hf import MULT_TASKS, TaskSpec, registered_tasks
from mult_hf.model.activations import ACTIVATIONS
from mult_hf.model.losses import LOSSES
from mult_hf.model.visualization import COLORMAPS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TASKS = [registered_tasks()[name] for name in MULT_TASKS]


def entries(nav):
    """The pages of a navigation, from top to bottom."""
    for entry in nav:
        for target in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [target] if isinstance(target, str) else entries(target)


def test_every_page_is_in_the_navigation_once():
    config = load_config(str(ROOT / "mkdocs.yml"))
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    elsewhere = {"index.md", "rooms-tiny.md", "indoor.md", "changelog.md"}  # README.md and others outside docs/, see docs/site_links.py
    assert len(written) > 20, "premise: the pages are found"
    assert sorted(entries(config.nav)) == sorted(written | elsewhere)


def test_every_public_name_is_in_the_reference():
    shown = set(re.findall(r"^::: (\S+)", "\n".join(path.read_text() for path in DOCS.glob("api/*.md")), re.MULTILINE))
    assert {f"mult_hf.{name}" for name in mult_hf.__all__} <= shown


@pytest.mark.parametrize(("field", "names"), [("loss", LOSSES), ("activation", ACTIVATIONS), ("colormap", COLORMAPS)])
def test_the_table_of_what_entries_may_name_matches_the_code(field, names):
    (row,) = re.findall(rf"^\| `{field}` \|(.*)\|$", (DOCS / "own-task.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) - {"value_range"} == set(names)
    (default,) = re.findall(r"`(\w+)` \(default\)", row)
    assert default == getattr(TaskSpec(name="a", kind="regression", channels=1), field)


def test_every_extra_is_explained():
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = re.findall(r"^([a-z0-9]+) = ", section, re.MULTILINE)
    assert "train" in extras, "premise: they are found"
    explained = re.findall(r"^\| `([a-z0-9]+)` \|", (DOCS / "install.md").read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(extras)


# --- the tables of docs/tasks.md; a failing test prints the table that belongs there ---


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def numbers(values):
    """Numbers in readable form: 1/512, not 0.001953125."""
    values = values if isinstance(values, tuple) else (values,)
    return ", ".join(f"{'-' * (value < 0)}1/{abs(1 / value):.6g}" if 0 < abs(value) < 0.5 else f"{value:.4g}" for value in values)


def code(words):
    return ", ".join(f"`{word}`" for word in words)


def meaning(spec):
    values = "0 to " + str(spec.channels - 1) if spec.is_classification else " to ".join(f"{end:g}" for end in spec.value_range)
    unknown = "255" if spec.is_classification else "NaN"
    return [f"`{spec.name}`", spec.kind, str(spec.channels), spec.unit, values, unknown, spec.description]


def training(spec):
    return [f"`{spec.name}`", f"`{spec.activation}`", f"`{spec.loss}`", f"{spec.weight:g}", code(spec.metrics)]


def storage(spec):
    stored = spec.encoding
    unknown = ", ".join([*(f"{value:g}" for value in stored.unknown), *([f"above {stored.maximum:g}"] if stored.maximum else [])])
    return [f"`{spec.name}`", f"`{stored.dtype}`", numbers(stored.scale), numbers(stored.offset), unknown or "none"]


def views(spec):
    return [f"`{spec.name}`", numbers(spec.flip_signs[:3]), f"{spec.zoom_exponent:g}", spec.resample, f"`{spec.colormap}`"]


TABLES = {
    "meaning": (["task", "kind", "channels", "unit", "values", "unknown", ""], meaning),
    "training": (["task", "activation", "loss", "weight", "metrics, the headline first"], training),
    "storage": (["task", "stored as", "scale", "offset", "unknown"], storage),
    "views": (["task", "factor when mirrored", "exponent of the zoom", "resized by", "colormap"], views),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_tasks_match_the_entries(name):
    header, row = TABLES[name]
    expected = table(header, [row(spec) for spec in TASKS])
    found = re.search(rf"<!-- table: {name} -->\n\n(.*?)\n\n", (DOCS / "tasks.md").read_text(), re.DOTALL)
    assert found, f"docs/tasks.md has no table after <!-- table: {name} -->"
    assert found[1] == expected, f"docs/tasks.md should have\n\n{expected}\n"
