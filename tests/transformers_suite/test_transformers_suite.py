"""Proves that MulT's classes pass transformers' ModelTesterMixin, ConfigTester, PipelineTesterMixin and ImageProcessingTestMixin.

The mixins run unchanged on `classes_*.py`, each file in a separate process, because they change transformers' tables. The default is one
kind of model, `MULT_HF_PROFILE=nightly` adds another, and `MULT_HF_ALL_KINDS=1` runs all kinds and transformers' slow tests.
"""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from support.transformers_tests import IMAGE_VARIABLE, Unavailable, lay_out

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

pytest.importorskip("parameterized", reason="transformers' tests need the package `parameterized`")

REASONS = re.compile(
    "|".join(
        [
            # Requirements that this machine or run does not meet.
            r"^test requires (accelerator|multiple accelerators|MPS|Flash Attention|the kernels library|deepspeed|PyTesseract)",
            r"^test is slow$",
            # Features of models of text, of several modalities, or of experts.
            r"RoPE|grouped_mm|test_resize_embeddings|take a cache as input|(language modeling|sequence-to-sequence).* head to check",
            r"token embeddings|doesn't use `inputs_embeds`|sparse experts|output_router_logits|position embeddings|sliding window mask",
            r"is not (a )?composite|marked as composite|`_?keep_in_fp32_modules|_keep_in_fp32_modules .* attribute defined|TP plan",
            # Features of other pipelines and processors.
            r"is not in `self.pipeline_model_mapping`|`run_pipeline_test` is currently not implemented",
            r"No validation found for `preprocess`|does not have dict size or list image_mean|imports transformers alone",
            # Features that ConvNeXt lacks: other names in files, and attention.
            r"No conversion found for|Parts of this model don't support sdpa",
            # Intended differences of MulT.
            r"saves weights under their names in memory",
        ]
    )
)
"""Why a test may be skipped; a reason that is not listed fails, so that no test is lost without notice."""

REASONS_OF_KINDS = re.compile(
    r"^MulT(Swinv2|Timm)ModelTest\.\w+: (No usage of the `capture_outputs` decorator|Cannot capture hidden states)"
    r"|^MulTSwinv2ModelTest\.\w+: Parts of this model cannot set attention dynamically"
)
"""Why a test of a single kind may be skipped: transformers' SwinV2 and timm encoders collect their outputs without its decorator, and
SwinV2 has only one attention function."""

REPEATED = "ConvNext or bc_torch_dtype or (eager_matches_sdpa_inference and (pad_right or no_attn_mask))"
"""Tests of the nightly run, as pytest's `-k` takes them: another encoder, the old name of the argument `dtype`, and three of four paddings,
which MulT's inputs do not have."""


@pytest.fixture(scope="module")
def mixins(pytestconfig, tmp_path_factory):
    """Directory from which transformers' mixins can be imported."""
    try:
        cache = getattr(pytestconfig, "cache", None)  # none with `-p no:cacheprovider`
        return lay_out(cache.mkdir("transformers-suite") if cache else tmp_path_factory.mktemp("transformers-suite"))
    except Unavailable as reason:
        pytest.skip(str(reason))


def run_classes(file, selected, mixins, directory):
    """Run the selected tests of a file in a separate process; returns the path of its report."""
    report = directory / "report.xml"
    paths = [ROOT, HERE, mixins]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "TRANSFORMERS_TINY_MODEL_PATH": str(directory / "tiny"),
        IMAGE_VARIABLE: str(ROOT / "docs" / "images" / "coffee.jpg"),
        "HF_HUB_OFFLINE": "1",
        "RUN_SLOW": "1" if os.environ.get("MULT_HF_ALL_KINDS") else "0",
    }
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        environment.pop(name, None)
    configuration = directory / "pytest.ini"
    configuration.write_text("[pytest]\nfilterwarnings = ignore\n")
    options = [
        "-c",
        str(configuration),
        "--noconftest",
        "-q",
        "--tb=short",
        f"--junitxml={report}",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *([] if os.environ.get("MULT_HF_ALL_KINDS") else ["-k", selected]),
    ]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(HERE / file)], cwd=directory, env=environment, capture_output=True, text=True
    )
    assert report.exists(), result.stdout[-5000:] + result.stderr[-5000:]
    return report, result.stdout


def outcomes(report):
    """For each test of a report, its class and name, and `passed`, `failed` or `skipped` with the reason."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname').rpartition('.')[2]}.{case.get('name')}"
        ends = {end.tag: end.get("message", "") for end in case}
        if "failure" in ends or "error" in ends:
            yield name, "failed", ends.get("failure", ends.get("error"))
        else:
            yield name, "skipped" if "skipped" in ends else "passed", ends.get("skipped", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "selected", "fewest"),
    [
        ("classes_modeling.py", f"not ({REPEATED})", 80),
        pytest.param("classes_modeling.py", REPEATED, 40, marks=pytest.mark.nightly),
        ("classes_image_processing.py", "", 15),
    ],
    ids=["modeling", "further cases of modeling", "image processing"],
)
def test_the_mixins_of_transformers_pass_or_are_skipped_for_a_known_reason(file, selected, fewest, mixins, tmp_path):
    report, output = run_classes(file, selected, mixins, tmp_path)
    found = list(outcomes(report))
    counts = Counter(outcome for _, outcome, _ in found)
    assert not counts["failed"], output[-20000:]
    unlisted = [f"{name}: {reason}" for name, outcome, reason in found if outcome == "skipped" and not REASONS.search(reason)]
    unexplained = [skip for skip in unlisted if not REASONS_OF_KINDS.search(skip)]
    assert not unexplained, "\n".join(unexplained)
    assert counts["passed"] >= fewest, counts
