"""Proves the promises about the package as a whole: who may import whom, who may know a task's name, and one version."""

import ast
import re
import sys
from pathlib import Path

import pytest

import mult_hf
from mult_hf import MULT_TASKS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mult_hf"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Files that `save_pretrained` copies beside a checkpoint, and what each may import of the others.
RING_1 = {
    "tasks": set(),
    "configuration_mult": {"tasks"},
    "decoder_mult": {"configuration_mult", "tasks"},
    "decoder_unet": {"configuration_mult", "decoder_mult"},
    "decoder_mtan": {"configuration_mult", "decoder_mult"},
    "decoders": {"decoder_mult", "decoder_unet", "decoder_mtan"},
    "losses": {"tasks"},
    "modeling_mult": {"configuration_mult", "decoder_mult", "decoders", "losses", "tasks", "pipeline_mult"},
    "image_processing_pil_mult": {"tasks", "image_processing_mult"},
    "image_processing_mult": {"image_processing_pil_mult"},
    "visualization": {"tasks"},
    "pipeline_mult": {"image_processing_pil_mult", "image_processing_mult", "visualization"},
}
# Modules that come with the package only.
RING_2 = {
    *(
        "__main__",
        "arguments",
        "attention_maps",
        "cards",
        "training_checkpoints",
        "evaluation",
        "photos",
        "prediction",
        "results",
        "tiling",
        "trainer_metrics",
    ),
    "training",
}
RING_1_PACKAGES = {"torch", "torchvision", "numpy", "PIL", "transformers", "huggingface_hub"}


def imports(path):
    """(names of our own modules, names of other top-level packages) that a file imports."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            own.add(node.module)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            others |= {name.split(".")[0] for name in names}
    return own, others


@pytest.mark.parametrize("path", sorted((PACKAGE / "weighting").glob("*.py")), ids=lambda p: p.stem)
def test_task_weighting_knows_only_tasks_and_imports_torchjd_late(path):
    own, others = imports(path)
    assert own <= {"tasks", "base", "losses", "gradients"}
    assert others - set(sys.stdlib_module_names) - {"torchjd"} <= {"torch", "accelerate"}
    at_the_top = {alias.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import) for alias in node.names}
    at_the_top |= {node.module for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)}
    assert "torchjd" not in at_the_top


@pytest.mark.parametrize("module", RING_1)
def test_files_that_travel_with_a_checkpoint_import_only_what_they_may(module):
    own, others = imports(PACKAGE / f"{module}.py")
    assert own <= RING_1[module]
    assert others - set(sys.stdlib_module_names) <= RING_1_PACKAGES


def test_every_module_beside_the_package_file_is_in_a_ring():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*RING_1, *RING_2, "__init__"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "metrics").glob("*.py")), ids=lambda path: path.stem)
def test_metrics_know_tasks_and_nothing_else_of_the_package(path):
    beside = {other.stem for other in path.parent.glob("*.py")}
    assert imports(path)[0] <= {"tasks", *beside}


def test_the_import_graph_has_no_cycle():
    """Premise: the imports for type checking alone, which never run, are the only edges back."""
    type_only = {"modeling_mult": {"pipeline_mult"}, "image_processing_pil_mult": {"image_processing_mult"}}
    edges = {module: allowed - type_only.get(module, set()) for module, allowed in RING_1.items()}
    done: set[str] = set()
    while len(done) < len(edges):
        ready = {module for module, needs in edges.items() if module not in done and needs <= done}
        assert ready, f"cycle among {set(edges) - done}"
        done |= ready


def string_constants(tree):
    """All string constants of a file except docstrings."""
    documented = [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    expressions = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    assert documented
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in expressions]


# Data sets have tables of their own that say which columns they store how; these alone may name tasks.
DATA_SETS = {"cocodoom.py", "nyuv2.py", "replica.py", "taskonomy.py", "reading.py", "check.py", "doom", "rooms"}


def is_a_data_set(path):
    return PACKAGE / "data" in path.parents and bool(DATA_SETS & set(path.relative_to(PACKAGE / "data").parts))


@pytest.mark.parametrize("path", [p for p in MODULES if not is_a_data_set(p)], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_but_tasks_names_a_task(path):
    named = [text for text in string_constants(ast.parse(path.read_text())) if text in MULT_TASKS]
    assert bool(named) == (path.name == "tasks.py"), f"{path.name} names {named}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_code_branches_on_a_task_name(path):
    """Not even where a data set's table names its tasks: no comparison with such a name, no match case."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Compare, ast.MatchValue)):
            names = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value in MULT_TASKS]
            assert not names, f"line {node.lineno} compares with {names}"


def test_the_version_is_the_same_everywhere():
    version = mult_hf.__version__
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## \[?{re.escape(version)}", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_public_names_exist_and_are_documented():
    for name in mult_hf.__all__:
        value = getattr(mult_hf, name)
        assert name in ("IGNORE_INDEX", "MULT_TASKS") or value.__doc__, name


def test_importing_the_package_imports_no_extra():
    """Training, data and metric libraries are paid for only by those who use them."""
    import subprocess

    script = "import sys, mult_hf, mult_hf.metrics; print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "transformers" in loaded
    assert not {"datasets", "evaluate", "skimage", "sklearn", "matplotlib", "mitsuba", "vizdoom", "gradio", "torchjd"} & set(loaded)
