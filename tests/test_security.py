"""Proves that nothing in the package runs code, a shell or a pickle that comes from data."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "mult_hf").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])
RUNS_CODE = {"eval", "exec", "compile", "__import__"}
OF_MODULES = {
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "dill.loads", "cloudpickle.loads", "joblib.load"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
}
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
"""Functions that unpickle, and the keyword and value that forbid it. numpy's own default is the same."""


def calls(tree):
    """Name as written, and keywords of constant value, of every call of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = {each.arg: each.value.value for each in node.keywords if isinstance(each.value, ast.Constant)}
            yield node.lineno, ast.unparse(node.func), keywords


def unsafe(source):
    """Lines of a source that run what data say, with the call."""
    for line, name, keywords in calls(ast.parse(source)):
        keyword, value = NEEDED.get(name, (None, None))
        defaults = name == "np.load" and keyword not in keywords
        if name in RUNS_CODE | OF_MODULES or keywords.get("shell") or (keyword and keywords.get(keyword) is not value and not defaults):
            yield f"line {line}: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_code_a_shell_or_a_pickle(path):
    assert list(unsafe(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    ["eval(x)", "os.system(x)", "subprocess.run(x, shell=True)", "yaml.load(x)", "pickle.loads(x)", "torch.load(x)",
     "torch.load(x, weights_only=False)", "np.load(x, allow_pickle=True)"],
)  # fmt: skip
def test_the_search_finds_each_of_them(line):
    assert len(list(unsafe(line))) == 1


@pytest.mark.parametrize("line", ["model.eval()", "torch.load(x, weights_only=True)", "np.load(x)", "yaml.safe_load(x)", "re.compile(x)"])
def test_the_search_skips_safe_code(line):
    assert list(unsafe(line)) == []
