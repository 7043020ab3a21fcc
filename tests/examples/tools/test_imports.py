"""Proves that the drawing of imports has every component and arrow of a package, and marks upward arrows."""

import subprocess

import pytest

from examples.tools import imports

TREE = {
    "__init__.py": "from .low.one import Name\n",
    "low/__init__.py": "",
    "low/one.py": "import os\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from pack.high.two import Other\n",
    "low/part/deep.py": "from ..one import Name\n",
    "high/two.py": "from pack.low import one\n\n\ndef late():\n    import pack.side\n",
    "side.py": "from pack import Name\nfrom packaging import version\n",
}
DRAWING = """\
__init__ -> low
high     -> low, side
low
side     -> __init__"""


@pytest.fixture
def tree(tmp_path):
    """Write files of a package `pack`; returns its repository."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / "pack" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.fixture
def drawn(capsys):
    """The drawing of a repository, and the line that counts."""

    def draw(repository, *flags):
        imports.main(["--package", "pack", "--repository", str(repository), "--order", "low", "high", *flags])
        drawing, counts = capsys.readouterr().out.rstrip().rsplit("\n\n", 1)
        return drawing, counts

    return draw


def test_components_are_folders_and_files_next_to_them_and_arrows_their_imports(tree, drawn):
    assert drawn(tree(TREE)) == (DRAWING, "4 components, 4 arrows, 0 of them upwards")


def test_an_arrow_against_the_order_is_marked(tree, drawn):
    drawing, counts = drawn(tree({**TREE, "low/one.py": "from pack.high import two\n", "side.py": ""}))
    assert "low      -> ^high" in drawing
    assert counts == "4 components, 4 arrows, 1 of them upwards"


def test_cycles_between_unordered_components_are_marked(tree, drawn):
    circle = {"a.py": "from . import b\n", "b.py": "from .c import x\n", "c.py": "import pack.a\n", "d.py": "import pack.a\n"}
    drawing, counts = drawn(tree(circle))
    assert drawing.splitlines() == ["a -> ^b", "b -> ^c", "c -> ^a", "d -> a"]
    assert counts == "4 components, 4 arrows, 3 of them upwards"


def test_files_can_be_components(tree, drawn):
    drawing, _ = drawn(tree(TREE), "--files")
    assert "low.part.deep -> low.one" in drawing.splitlines()
    assert "high.two      -> low.one, side" in drawing.splitlines()


def test_mermaid_draws_upward_arrows_dotted(tree, drawn):
    drawing, _ = drawn(tree({**TREE, "low/one.py": "from pack.high import two\n"}), "--format", "mermaid")
    lines = [line.strip() for line in drawing.splitlines()]
    assert lines[0] == "flowchart TD"
    assert 'component_low["low"]' in lines
    assert "component_low -.-> component_high" in lines
    assert "component_high --> component_low" in lines


def test_an_earlier_revision_is_drawn_from_git(tree, drawn):
    repository = tree(TREE)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(repository), *command], check=True)
    (repository / "pack/side.py").unlink()
    (repository / "pack/high/two.py").write_text("")
    assert drawn(repository)[1] == "3 components, 1 arrows, 0 of them upwards"
    assert drawn(repository, "--revision", "HEAD") == (DRAWING, "4 components, 4 arrows, 0 of them upwards")


def test_a_missing_package_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no Python files; give another --package"):
        imports.main(["--package", "nothing", "--repository", str(tmp_path)])
    with pytest.raises(ValueError, match=r"git ls-tree .* failed"):
        imports.main(["--repository", str(tmp_path), "--revision", "HEAD"])
