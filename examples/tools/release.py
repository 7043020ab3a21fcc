r"""Package a trained model for release: half-precision weights, measured on held-out views, with images and a card.

    python examples/tools/release.py --model outputs/rooms-tiny --dataset data/rooms-128 --output_dir outputs/release/rooms-tiny
    python examples/tools/release.py --model outputs/rooms-tiny --dataset data/rooms-128 --packaged \
        --output_dir mult_hf/checkpoints/rooms-tiny

The second command created rooms-tiny. The weights are measured after they have been written and loaded as a user would load
them. `--output_dir` receives model, processor, the code for machines without this package, the training run's card with a section on the
held-out split, `results.json`, the training run's `panel.png` and `training.json`, and `example-TASK.png` with image, prediction and truth.
"""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mult_hf import DEFAULT_CHECKPOINT, ROOMS_TINY_CHECKPOINT, MulTForMultiTaskDensePrediction, MulTImageProcessor, TaskSpec
from mult_hf.cli.arguments import check_bounds, flag, parse_arguments
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_entries
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.evaluation.cards import OUTPUTS, before_outputs, eval_results, public_name, shareable, to_jsonable, update_card
from mult_hf.evaluation.comparison import gain_over
from mult_hf.evaluation.compatibility import measured_specs
from mult_hf.evaluation.loop import Evaluation, evaluate
from mult_hf.evaluation.report import example_images, results_table
from mult_hf.inference.predictor import TestTimeAugmentation, predict
from mult_hf.model.tasks import resolve_tasks
from mult_hf.model.visualization import panel
from mult_hf.training.checkpoints import replace_files

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "model.safetensors"
COPIED = {"panel.png": "panel.png", "metrics.json": "training.json"}
"""Files of a training run that are copied, and their new names."""

PACKAGED = {Path(DEFAULT_CHECKPOINT).name: "", Path(ROOMS_TINY_CHECKPOINT).name: ", model=mult_hf.ROOMS_TINY_CHECKPOINT"}
"""How the pipeline's call in the card of each packaged model names it."""

IMPORT_OF_PACKAGED = "import mult_hf  # registers the pipeline and includes this model"
"""Import line in a packaged model's card, because there is no copy of the code for trust_remote_code."""


@dataclass
class ReleaseArguments:
    """The model to release, and the data to measure it on; each field is a flag, and a key of the file given by `--config`."""

    config: Path | None = flag(None, "YAML or JSON file of flags; flags on the command line take precedence")
    model: Path = flag(Path("outputs/mult-rooms"), "output directory of examples/train.py, or of calibrate.py")
    dataset: str = flag(str(ROOT / "examples/data/rooms-sample"), "local directory or Hub id")
    split: str = flag("test", "held-out split to measure on")
    baseline_split: str = flag("train", "split that the constant baseline is computed from")
    dtype: Literal["float16", "bfloat16", "float32"] = flag("float16", "type of the weights in the file; they are loaded as float32")
    packaged: bool = flag(False, "release as a checkpoint of the package, without a copy of the code")
    license: str | None = flag(None, "licence of the weights in the Hub's notation, such as mit")
    data_command: str | None = flag(None, "command that creates the data, shown in the card")
    limits: list[str] = flag([], "first sentences of the card's section on limits")
    images: int = flag(6, "number of images in each task's panel")
    batch_size: int = flag(8, "images per batch")
    cpu_threads: int | None = flag(None, "threads on a machine without accelerator; all cores by default")
    output_dir: Path = flag(Path("outputs/release/mult-rooms"), "output directory; its name becomes the model's")

    def __post_init__(self) -> None:
        check_bounds(self, {1: ("images", "batch_size", "cpu_threads")})
        if missing := [name for name in ("README.md", *COPIED) if not (self.model / name).is_file()]:
            raise ValueError(
                f"--model is {self.model}, which has no {', '.join(missing)}; give the output directory of examples/train.py, or of "
                "calibrate.py for such a directory"
            )
        if self.output_dir.resolve() == self.model.resolve():
            raise ValueError(f"--output_dir is {self.output_dir}, the same as --model, whose full weights would be lost; give another")


def write_model(arguments: ReleaseArguments, directory: Path) -> None:
    """Write model and processor, with weights of the given type.

    Raises:
        ValueError: if a weight is too large for the type.
    """
    shutil.rmtree(directory, ignore_errors=True)
    MulTForMultiTaskDensePrediction.from_pretrained(arguments.model, dtype=torch.float32).save_pretrained(directory, max_shard_size="1TB")
    MulTImageProcessor.from_pretrained(arguments.model).save_pretrained(directory)
    # config.json still contains float32, the type in which transformers loads the file.
    save_file(to_dtype(load_file(directory / WEIGHTS), getattr(torch, arguments.dtype)), directory / WEIGHTS, metadata={"format": "pt"})
    (directory / WEIGHTS).chmod(0o644)  # safetensors lets only the owner read it; others may use the same installation
    if arguments.packaged:
        leave_out_code(directory)


def to_dtype(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Round weights to a type.

    Raises:
        ValueError: if a weight is too large for the type.
    """
    rounded = {name: weight.to(dtype) for name, weight in weights.items()}
    lost = [name for name, weight in rounded.items() if not weight.isfinite().all()]
    if lost:
        largest = max(weights[name].abs().max().item() for name in lost)
        raise ValueError(f"{lost} reach {largest:g}, beyond {torch.finfo(dtype).max:g}, the largest {dtype}; give --dtype float32")
    return rounded


def leave_out_code(directory: Path) -> None:
    """Delete the copied modules and the references to them."""
    for module in directory.glob("*.py"):
        module.unlink()
    for path in directory.glob("*.json"):
        content = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("auto_map", "custom_pipelines")}
        path.write_text(json.dumps(content, indent=2) + "\n")


def measure(arguments: ReleaseArguments, directory: Path, accelerator: Accelerator) -> tuple[dict[str, Evaluation], list[Image.Image]]:
    """Measure the released weights and the original ones.

    Returns:
        Evaluations of the released weights, the weights before rounding, the released weights with the mirrored image averaged in,
        and the constant baseline; and one panel per task.
    """
    models = {
        name: MulTForMultiTaskDensePrediction.from_pretrained(path).to(accelerator.device).eval()
        for name, path in (("MulT", directory), ("before rounding", arguments.model))
    }
    specs = measured_specs(models["MulT"].config.task_specs, resolve_tasks(load_task_entries(arguments.dataset)))
    collator = MultiTaskCollator(MulTImageProcessor.from_pretrained(directory, tasks=[spec.to_dict() for spec in specs.values()]))
    held_out = load_rows(arguments.dataset, split=arguments.split)
    predictors = {name: partial(predict, model, tasks=list(specs)) for name, model in models.items()}
    predictors["MulT, with the mirrored image"] = partial(predictors["MulT"], augmentation=TestTimeAugmentation(flip=True))
    predictors["constant baseline"] = constant_baseline(load_rows(arguments.dataset, split=arguments.baseline_split), collator)
    evaluations = evaluate(predictors, held_out, collator, accelerator, batch_size=arguments.batch_size, per_image=False)
    examples = example_images(models["MulT"], held_out, collator, arguments.images)
    panels = [
        panel(
            [[each.image, each.predictions[task], each.truths[task]] for each in examples],
            ["image", task, "truth"],
            keys=[None, *(each.keys[task] for each in examples[:1])],
        )
        for task in specs
    ]
    return evaluations, panels


def write_card(arguments: ReleaseArguments, directory: Path, numbers: Mapping[str, Any], table: str, specs: Mapping[str, TaskSpec]) -> None:
    """Write the training run's card with the results measured here."""
    card = ModelCard.load(arguments.model / "README.md")
    old, new = public_name(str(arguments.model)), arguments.output_dir.resolve().name
    card.data.model_name = new
    card.data.license = arguments.license or card.data.license
    loaded = PACKAGED.get(new, "") if arguments.packaged else f', model="{new}"'
    if arguments.packaged:
        card.text = re.sub(r"(?m)^import mult_hf  # .*$", IMPORT_OF_PACKAGED, card.text, count=1)
    card.text = card.text.replace(f"# {old}\n", f"# {new}\n", 1).replace(f', model="{old}"', loaded, 1)
    examples = "\n".join(f"![{task}: image, prediction, truth](example-{task}.png)" for task in specs)
    section = f"""## On held-out images

Results on the split `{numbers["split"]}` of `{numbers["dataset"]}` ({numbers["evaluated_samples"]} images that were not used for any
choice), with and without averaging over the mirrored image. The weights in this directory are stored in {numbers["dtype"]} and used
in float32; rounding changed the headline metrics by at most {numbers["largest_change_by_rounding"]:.2g} %. Measured with
`{numbers["command"]}`.

{table}

{examples}

"""
    if f"\n{OUTPUTS}\n" not in card.text:
        raise ValueError(f"{arguments.model}/README.md has no heading {OUTPUTS!r}; train with the model_card.md of this repository")
    card.text = before_outputs(card.text, section)
    if arguments.data_command is not None:
        card.text = card.text.replace("## Training\n\n", f"## Training\n\n- data created by `{arguments.data_command}`\n", 1)
    if arguments.limits:
        card.text = card.text.replace("## Limits\n", "## Limits\n\n" + " ".join(arguments.limits) + "\n", 1)
    card.save(directory / "README.md")
    results = eval_results(numbers["model"], specs, numbers["dataset"], arguments.split)
    results += eval_results(numbers["mirrored"], specs, numbers["dataset"], arguments.split, {"flip": True})
    update_card(directory / "README.md", results)


def describe(arguments: ReleaseArguments, evaluations: Mapping[str, Evaluation], argv: Sequence[str]) -> dict[str, Any]:
    """All results, for `results.json`."""
    ours, before, mirrored, baseline = (each.compute() for each in evaluations.values())
    specs = next(iter(evaluations.values())).specs
    headlines = [f"{task}/{spec.metrics[0]}" for task, spec in specs.items()]
    return {
        "dataset": public_name(arguments.dataset),
        "split": arguments.split,
        "evaluated_samples": len(next(iter(evaluations.values())).names),
        "dtype": arguments.dtype,
        "model": ours,
        "before_rounding": before,
        "mirrored": mirrored,
        "constant_baseline": baseline,
        "gain_over_baseline": gain_over(ours, baseline, specs),
        "largest_change_by_rounding": max(100 * abs(ours[name] / before[name] - 1) for name in headlines if before.get(name)),
        "arguments": {key: shareable(str(value), ROOT) for key, value in asdict(arguments).items()},
        "command": shareable(f"python examples/tools/release.py {shlex.join(argv)}", ROOT),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Write the model, measure it, and rename it to its final name.

    Args:
        argv: the flags; by default those of this process.
    """
    argv = sys.argv[1:] if argv is None else [*argv]
    arguments = parse_arguments(ReleaseArguments, argv, __doc__.split("\n")[0])
    accelerator = Accelerator()
    if accelerator.device.type == "cpu" and arguments.cpu_threads:
        torch.set_num_threads(arguments.cpu_threads)
    unfinished = arguments.output_dir / ".partial"
    write_model(arguments, unfinished)
    evaluations, panels = measure(arguments, unfinished, accelerator)
    numbers = describe(arguments, evaluations, argv)
    shown = {name: each for name, each in evaluations.items() if name != "before rounding"}
    table, specs = results_table(shown), evaluations["MulT"].specs
    print(table)
    (unfinished / "results.json").write_text(json.dumps(to_jsonable(numbers), indent=2, allow_nan=False) + "\n")
    for task, each in zip(specs, panels):
        each.save(unfinished / f"example-{task}.png", optimize=True)
    for name, copy in COPIED.items():
        shutil.copy2(arguments.model / name, unfinished / copy)
    write_card(arguments, unfinished, numbers, table, specs)
    replace_files(unfinished, arguments.output_dir)
    size = (arguments.output_dir / WEIGHTS).stat().st_size
    gain = numbers["gain_over_baseline"]
    print(f"{size / 1e6:.1f} MB of weights, {gain:+.1f} % over the constant baseline; written to {arguments.output_dir}")


if __name__ == "__main__":
    main()
