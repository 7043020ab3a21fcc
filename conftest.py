"""Runs the Python blocks of README.md and docs/ as tests: `pytest README.md docs`, after the README's training command."""

try:
    from sybil import Sybil
    from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
except ImportError:  # `pytest tests/...` works without it; asked for pages, pytest then finds no test and fails
    pass
else:
    pytest_collect_file = Sybil(
        parsers=[PythonCodeBlockParser(), SkipParser()],
        patterns=["README.md", "docs/*.md"],
        excludes=["mult_hf/checkpoints/*/README.md"],  # model cards use the reader's own image.jpg
    ).pytest()
