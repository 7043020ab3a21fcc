"""Runs the Python blocks of README.md and docs/ as tests: `pytest README.md docs`, after the README's training command."""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    excludes=["mult_hf/checkpoints/*/README.md"],  # model cards speak of the reader's own photo.jpg
).pytest()
