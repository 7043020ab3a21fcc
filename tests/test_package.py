"""Proves rules for the whole package: directions of imports, where tasks may be named, and a single version."""

import ast
import re
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports

import mult_hf
from mult_hf import MULT_TASKS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mult_hf"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Folders that each folder may import; `model` is copied to checkpoints, `cli` contains the commands.
ALLOWED = {
    "model": set(),
    "metrics": {"model"},
    "data": {"model", "metrics"},
    "inference": {"model", "data", "metrics"},
    "evaluation": {"model", "data", "metrics", "inference"},
    "training": {"model", "data", "metrics", "inference", "evaluation"},
    "serving": {"model", "data", "metrics", "inference"},
    "cli": {"model", "data", "metrics", "inference", "evaluation", "training", "serving"},
}
MODEL = sorted((PACKAGE / "model").glob("*.py"))
# Libraries of a machine that loads a checkpoint with `trust_remote_code=True`.
MODEL_PACKAGES = {"torch", "torchvision", "numpy", "PIL", "transformers", "huggingface_hub"}
# What such a machine may lack; imported inside `try`, so that transformers does not demand it.
OPTIONAL_PACKAGES = {"timm", "pillow_heif"}


def imported_modules(path):
    """(own modules as full dotted names, names of other top-level packages) that a file imports, also inside functions."""
    package = path.relative_to(ROOT).parent.parts
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            modules = [f"{module}.{alias.name}" for alias in node.names] if module in (PACKAGE.name, ".".join(base)) else [module]
        else:
            continue
        own |= {module for module in modules if module.split(".")[0] == PACKAGE.name}
        others |= {module.split(".")[0] for module in modules if module.split(".")[0] != PACKAGE.name}
    return own, others


def folder_of(module):
    """The folder of a module such as `mult_hf.data.schema`; None for names of the package file itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else None


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent != PACKAGE], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_between_folders_go_one_way(path):
    folder = path.relative_to(PACKAGE).parts[0]
    reached = {folder_of(module) or "the package file" for module in imported_modules(path)[0]} - {folder}
    allowed = ALLOWED[folder] | ({"the package file"} if folder == "cli" else set())  # which imports all others on first use
    assert reached <= allowed, f"{path.relative_to(ROOT)} imports {sorted(reached - allowed)}"


def test_every_folder_has_its_place_in_the_order():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ALLOWED)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", MODEL, ids=lambda p: p.stem)
def test_files_copied_to_checkpoints_are_flat_and_import_only_transformers_dependencies(path):
    """`save_pretrained` copies modules imported as `from .x import y`, and silently ignores every other form."""
    own, others = imported_modules(path)
    assert not [p for p in (PACKAGE / "model").iterdir() if p.is_dir() and p.name != "__pycache__"], "premise: no folders within"
    assert {module.split(".")[1] for module in own} <= {"model"}
    assert others - set(sys.stdlib_module_names) <= MODEL_PACKAGES | OPTIONAL_PACKAGES
    assert not OPTIONAL_PACKAGES & set(get_imports(path)), "an optional package is imported inside `try`"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"line {node.lineno}: import from the same folder"
            assert node.module, f"line {node.lineno}: `from . import` is not copied"


@pytest.mark.parametrize("path", sorted((PACKAGE / "training" / "weighting").glob("*.py")), ids=lambda p: p.stem)
def test_torchjd_is_imported_only_when_it_is_used(path):
    at_the_top = {alias.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import) for alias in node.names}
    at_the_top |= {node.module for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)}
    assert "torchjd" not in at_the_top


def is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_there_are_no_circular_imports():
    """Imports for type checking never run, and those inside functions run late: neither is counted."""
    edges = {}
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if not is_type_checking(node)]
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        edges[name] = set()
        for node in (node for node in tree.body if isinstance(node, ast.ImportFrom)):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            edges[name] |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    edges = {name: {module for module in needs if module in edges and module != name} for name, needs in edges.items()}
    assert sum(map(len, edges.values())) > 100, "premise: imports are found"
    done: set[str] = set()
    while len(done) < len(edges):
        ready = {name for name, needs in edges.items() if name not in done and needs <= done}
        assert ready, f"circle among {sorted(set(edges) - done)}"
        done |= ready


def string_constants(tree):
    """All string constants of a file except docstrings."""
    documented = [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    expressions = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    assert documented
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in expressions]


# Data sets have their own tables of stored columns; only these may name tasks.
DATA_SETS = {"benchmarks", "synthetic"}


def is_a_data_set(path):
    return PACKAGE / "data" in path.parents and bool(DATA_SETS & set(path.relative_to(PACKAGE / "data").parts))


@pytest.mark.parametrize("path", [p for p in MODULES if not is_a_data_set(p)], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_tasks_module_names_tasks(path):
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
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## \[?{re.escape(version)}", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_public_names_exist_and_are_documented():
    for name in mult_hf.__all__:
        value = getattr(mult_hf, name)
        assert name in ("IGNORE_INDEX", "MULT_TASKS") or value.__doc__, name


@pytest.mark.slow
def test_importing_the_package_imports_no_optional_libraries():
    """Training, data and metric libraries are only needed by those who use them."""
    import subprocess

    script = "import sys, mult_hf, mult_hf.metrics; print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "transformers" in loaded
    assert not {"datasets", "evaluate", "skimage", "sklearn", "matplotlib", "mitsuba", "vizdoom", "gradio", "torchjd"} & set(loaded)
