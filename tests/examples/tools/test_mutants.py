"""Proves that the list of deliberate bugs applies to the current source, and that the command distinguishes killed bugs from survivors."""

import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from examples.tools.mutants import LIST, ROOT, Mutant, check_list, read_list, select
from support.tables import unpadded

MUTANTS = read_list(LIST)

# --- the list ---


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_every_edit_of_the_list_applies_to_the_source_and_names_tests_that_exist(mutant):
    assert check_list([mutant], ROOT) == []


def test_the_list_covers_every_area_of_the_package():
    areas = Counter("losses" if "losses" in mutant.file else Path(mutant.file).parts[1] for mutant in MUTANTS)
    assert sum(areas.values()) >= 60
    assert min(areas[area] for area in ("model", "losses", "metrics", "data", "inference", "evaluation", "training")) >= 5


# --- one edit ---

EDIT = Mutant("sum", "toy.py", "a + b", "a - b", ("test_toy.py",))


def test_an_edit_replaces_the_only_occurrence_of_its_text():
    assert EDIT.apply("x = a + b\n") == "x = a - b\n"


@pytest.mark.parametrize(
    ("edit", "source", "message"),
    [
        (EDIT, "x = 1\n", r"sum: 'a \+ b' occurs 0 times in toy.py; it must occur once"),
        (EDIT, "x = a + b\ny = a + b\n", r"sum: 'a \+ b' occurs 2 times in toy.py; it must occur once"),
        (replace(EDIT, new="a -"), "x = a + b\n", "sum: 'a -' leaves invalid Python in toy.py, line 1"),
        (replace(EDIT, new="a  +  b  # the same"), "x = a + b\n", "sum: .* does not change what toy.py does"),
    ],
)
def test_an_edit_that_does_not_apply_is_refused_by_its_name(edit, source, message):
    with pytest.raises(ValueError, match=message):
        edit.apply(source)


def test_a_missing_file_and_a_missing_test_are_problems_of_the_list(tmp_path):
    file, test = check_list([EDIT], tmp_path)
    assert "sum: cannot read toy.py" in file
    assert "sum: tests ['test_toy.py'] do not exist" in test


def test_a_test_missing_from_its_file_is_a_problem_of_the_list(tmp_path):
    (tmp_path / "toy.py").write_text("x = a + b\n")
    (tmp_path / "test_toy.py").write_text("def test_sum():\n    pass\n")
    assert check_list([replace(EDIT, tests=("test_toy.py::test_sum",))], tmp_path) == []
    (problem,) = check_list([replace(EDIT, tests=("test_toy.py::test_product",))], tmp_path)
    assert "test_toy.py::test_product" in problem


def test_an_unknown_or_repeated_id_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown mutants \['product'\]; the list has 1, such as sum"):
        select([EDIT], ["product"])
    entry = {"id": "sum", "file": "toy.py", "old": "a", "new": "b", "tests": ["test_toy.py"]}
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([entry, entry]))
    with pytest.raises(ValueError, match=r"ids \['sum'\] occur more than once"):
        read_list(tmp_path / "list.yaml")
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([{**entry, "why": "?"}]))
    with pytest.raises(ValueError, match=r"entry sum has the fields .*'why'"):
        read_list(tmp_path / "list.yaml")


# --- the command, on a project of one function ---

SOURCE = "def total(numbers):\n    result = 0\n    while numbers:\n        result += numbers.pop()\n    return result\n"
TEST = "from toy import total\n\n\ndef test_total():\n    assert total([1, 2]) == 3\n"
KILLED = {"id": "sign", "file": "toy.py", "old": "result +=", "new": "result -=", "tests": ["test_toy.py"]}
SURVIVOR = {"id": "start", "file": "toy.py", "old": "numbers.pop()", "new": "numbers.pop(0)", "tests": ["test_toy.py"]}
HANGS = {"id": "endless", "file": "toy.py", "old": "numbers.pop()", "new": "numbers[0]", "tests": ["test_toy.py"]}
BROKEN = {"id": "name", "file": "toy.py", "old": "def total", "new": "def sum_of", "tests": ["test_toy.py"]}


def run_command(directory, mutants, *flags, test=TEST):
    """Run the command in a separate process, because it forks; without the large libraries, which the toy does not need."""
    project = directory / "project"
    project.mkdir()
    (project / "toy.py").write_text(SOURCE)
    (project / "test_toy.py").write_text(test)
    (directory / "list.yaml").write_text(yaml.safe_dump(mutants))
    code = f"""
        import sys
        from pathlib import Path
        from examples.tools.mutants import main
        sys.exit(main({[*flags]!r}, root=Path({str(project)!r}), path=Path({str(directory / "list.yaml")!r}), preloaded=()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (project / "toy.py").read_text() == SOURCE, "the tree itself is never changed"
    assert sorted(path.name for path in project.iterdir()) == ["test_toy.py", "toy.py"]
    return done


@pytest.mark.slow
def test_a_survivor_is_reported_and_makes_the_command_fail(tmp_path):
    done = run_command(tmp_path, [KILLED, SURVIVOR], "--jobs", "2")
    assert done.returncode == 1, done.stderr
    assert "| sign | toy.py | killed | test_toy.py::test_total |" in unpadded(done.stdout)
    assert "| start | toy.py | SURVIVED | - |" in unpadded(done.stdout)
    assert "1 of 2 mutants killed" in done.stdout


@pytest.mark.slow
def test_a_test_with_spaces_in_its_name_is_reported_in_full(tmp_path):
    cases = TEST.replace("def test_total():", "@pytest.mark.parametrize('of', [1], ids=['of two'])\ndef test_total(of):")
    done = run_command(tmp_path, [KILLED], test=f"import pytest\n{cases}")
    assert done.returncode == 0, done.stderr
    assert "| sign | toy.py | killed | test_toy.py::test_total[of two] |" in unpadded(done.stdout)


@pytest.mark.slow
def test_the_command_succeeds_where_every_chosen_mutant_is_killed(tmp_path):
    done = run_command(tmp_path, [KILLED, SURVIVOR], "--only", "sign")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 mutants killed" in done.stdout


@pytest.mark.nightly
def test_a_mutant_that_hangs_is_stopped_and_counts_as_killed(tmp_path):
    done = run_command(tmp_path, [HANGS, KILLED], "--timeout", "10")
    assert done.returncode == 0, done.stderr
    assert "| endless | toy.py | killed (hung) | - | 10 |" in unpadded(done.stdout)
    assert "2 of 2 mutants killed" in done.stdout, "the next mutant runs on a clean copy"


@pytest.mark.slow
def test_a_mutant_that_stops_its_tests_from_loading_is_an_error(tmp_path):
    done = run_command(tmp_path, [BROKEN])
    assert done.returncode == 2
    assert "| name | toy.py | BROKEN |" in unpadded(done.stdout)
    assert "cannot import name 'total'" in done.stderr


def test_tests_that_fail_without_a_mutant_are_refused(tmp_path):
    done = run_command(tmp_path, [KILLED], test=TEST.replace("== 3", "== 4"))
    assert done.returncode == 2
    assert "the tests do not pass on the unchanged tree" in done.stderr


def test_an_edit_that_does_not_apply_stops_the_command_before_any_test(tmp_path):
    done = run_command(tmp_path, [KILLED, {**SURVIVOR, "old": "numbers.push()"}])
    assert done.returncode == 2
    assert "start: 'numbers.push()' occurs 0 times in toy.py" in done.stderr
    assert "killed" not in done.stdout
