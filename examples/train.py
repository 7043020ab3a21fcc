"""Train MulT on a multi-task data set, evaluate it beside the trivial predictor, and save what a user needs.

    accelerate launch examples/train.py                                   # small model, the shipped Rooms sample
    accelerate launch examples/train.py --dataset user/my-rooms --backbone microsoft/swin-tiny-patch4-window7-224

The data set is a local directory or a Hub id; its card says how labels are stored (docs/data.md). Written to `--output_dir`: the
model, its processor and code, a filled model card, `metrics.json`, and `panel.png` with photo, predictions and truth.
"""

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from datasets import Dataset, load_dataset
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import HfArgumentParser, get_scheduler

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor, TaskSpec
from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_task_entries
from mult_hf.image_processing_pil_mult import MulTBatchFeature
from mult_hf.metrics import MultiTaskMetrics, constant_predictions
from mult_hf.tasks import resolve_tasks
from mult_hf.visualization import color_limits, colorize, panel

ROOT = Path(__file__).resolve().parents[1]

# What the Hub calls a model with such an output.
HUB_TASKS = {"depth-estimation": "depth-estimation", "semantic-segmentation": "image-segmentation"}


@dataclass
class TrainingArguments:
    """Everything that the run depends on; each field is a flag."""

    dataset: str = field(default=str(ROOT / "examples/data/rooms-sample"), metadata={"help": "local directory or Hub id"})
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    validation_split: str = field(default="validation", metadata={"help": "split to evaluate on"})
    output_dir: Path = field(default=Path("outputs/mult-rooms"), metadata={"help": "where everything is written"})
    tasks: list[str] | None = field(default=None, metadata={"help": "names of tasks to train; all of the data set by default"})
    reference_task: str | None = field(default=None, metadata={"help": "task that makes the shared attention; normals by default"})
    backbone: str | None = field(
        default=None, metadata={"help": "directory or Hub id of a pretrained encoder; a small new Swin by default"}
    )
    embed_dim: int = field(default=24, metadata={"help": "channels of a new Swin's first stage"})
    depths: list[int] = field(default_factory=lambda: [2, 2, 2, 2], metadata={"help": "blocks of a new Swin's stages"})
    window_size: int = field(default=8, metadata={"help": "side of a new Swin's windows, in patches of 4 pixels"})
    position_embeddings: bool = field(default=True, metadata={"help": "absolute position embeddings in a new Swin"})
    decoder: str = field(default="mult", metadata={"help": "mult, or a baseline: swin_unet, mtan"})
    block_attention: list[str] = field(
        default_factory=lambda: ["self+skip", "encoder+skip"],
        metadata={"help": "kinds of the blocks of a decoder stage; the paper's are: self encoder"},
    )
    drop_path_rate: float = field(default=0.0, metadata={"help": "stochastic depth of a new Swin and of the decoders"})
    image_size: int | None = field(default=None, metadata={"help": "side of training images in pixels; as stored by default"})
    max_steps: int = field(default=450, metadata={"help": "optimiser steps"})
    batch_size: int = field(default=8, metadata={"help": "images a step and process"})
    learning_rate: float = field(default=2e-3, metadata={"help": "largest learning rate, after the warm-up"})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's, on weight matrices only"})
    warmup_steps: int = field(default=30, metadata={"help": "steps in which the learning rate grows"})
    max_grad_norm: float = field(default=5.0, metadata={"help": "gradients are scaled down to this norm"})
    mixed_precision: str = field(default="no", metadata={"help": "no, bf16 or fp16"})
    max_zoom: float = field(default=1.15, metadata={"help": "training views are magnified by 1 to this factor, and cropped"})
    color_jitter: float = field(default=0.2, metadata={"help": "brightness, contrast and saturation change by up to this share"})
    num_workers: int = field(default=0, metadata={"help": "processes that prepare batches"})
    cpu_threads: int | None = field(default=None, metadata={"help": "threads a process without accelerator; all cores, shared, by default"})
    seed: int = field(default=0, metadata={"help": "of weights, order and flips"})
    panel_rows: int = field(default=4, metadata={"help": "validation images in panel.png"})


def select_tasks(arguments: TrainingArguments) -> dict[str, TaskSpec]:
    """The tasks of the data set, or those of them that were asked for.

    Raises:
        ValueError: if the data set lacks one of these.
    """
    specs = resolve_tasks(load_task_entries(arguments.dataset))
    unknown = sorted(set(arguments.tasks or []) - set(specs))
    if unknown:
        raise ValueError(f"--tasks has {unknown}, but {arguments.dataset} has {list(specs)}")
    return {task: spec for task, spec in specs.items() if arguments.tasks is None or task in arguments.tasks}


def build_augmentation(arguments: TrainingArguments, specs: Mapping[str, TaskSpec]) -> RandomAugmentation:
    """Mirrored, magnified and recoloured views; every strength is a flag."""
    jitter = arguments.color_jitter
    return RandomAugmentation(
        tasks=specs, zoom=(1.0, arguments.max_zoom), degrees=0.0, brightness=jitter, contrast=jitter, saturation=jitter, hue=0.0
    )


def build_model(arguments: TrainingArguments, specs: Mapping[str, TaskSpec], image_size: int) -> MulTForMultiTaskDensePrediction:
    """A model on a pretrained encoder if one is named, else on a new small Swin."""
    decoder = {
        "tasks": list(specs.values()),
        "decoder_type": arguments.decoder,
        "reference_task": arguments.reference_task,
        "block_attention": arguments.block_attention,
        "drop_path_rate": arguments.drop_path_rate,
    }
    if arguments.backbone is not None:
        return MulTForMultiTaskDensePrediction.from_backbone(arguments.backbone, **decoder)
    stages = range(len(arguments.depths))
    swin = {
        "model_type": "swin",
        "embed_dim": arguments.embed_dim,
        "depths": arguments.depths,
        "num_heads": [max(1, arguments.embed_dim // 24) * 2**stage for stage in stages],
        "window_size": arguments.window_size,
        "drop_path_rate": arguments.drop_path_rate,
        # Few images teach a network little about where floors and ceilings are wont to be; this tells it directly.
        "use_absolute_embeddings": arguments.position_embeddings,
        "image_size": image_size,
        "out_features": [f"stage{stage + 1}" for stage in stages],
    }
    return MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=swin, **decoder))


def build_optimizer(model: nn.Module, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """AdamW that does not decay norms, biases, relative position biases and position embeddings."""

    def is_position(name: str) -> bool:
        return "position_bias" in name or "position_embeddings" in name

    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and not is_position(name)]
    others = [p for name, p in model.named_parameters() if p.ndim <= 1 or is_position(name)]
    groups = [{"params": decayed, "weight_decay": arguments.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=arguments.learning_rate)


def endless(loader: DataLoader) -> Iterator[MulTBatchFeature]:
    """Batches epoch after epoch."""
    if len(loader) == 0:
        raise ValueError(
            f"the training data hold no whole batch of {loader.batch_size} a process; lower --batch_size, or use fewer processes"
        )
    while True:
        yield from loader


def train(model: nn.Module, loader: DataLoader, arguments: TrainingArguments, accelerator: Accelerator) -> nn.Module:
    """The training loop; returns the model as Accelerate wrapped it.

    Raises:
        FloatingPointError: if the loss is not finite, with the step and the losses.
    """
    optimizer = build_optimizer(model, arguments)
    # Accelerate steps the schedule once a process.
    steps, warmup = arguments.max_steps * accelerator.num_processes, arguments.warmup_steps * accelerator.num_processes
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=min(warmup, steps // 2), num_training_steps=steps)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    model.train()
    smoothed: dict[str, float] = {}
    bar = tqdm(range(1, arguments.max_steps + 1), desc="training", disable=not accelerator.is_main_process, mininterval=5)
    for step, batch in zip(bar, endless(loader)):
        outputs = model(pixel_values=batch["pixel_values"], labels=batch["labels"])
        losses = dict(zip(outputs.task_losses, torch.stack(list(outputs.task_losses.values())).tolist()))
        if not torch.isfinite(outputs.loss):
            raise FloatingPointError(
                f"the loss is {outputs.loss.item()} at step {step}; task losses are {losses}; try a lower learning rate"
            )
        accelerator.backward(outputs.loss)
        accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        smoothed = {task: 0.9 * smoothed.get(task, loss) + 0.1 * loss for task, loss in losses.items()}
        bar.set_postfix({task: f"{loss:.3g}" for task, loss in smoothed.items()}, refresh=False)
        if step % max(1, arguments.max_steps // 10) == 0:
            accelerator.print(f"step {step}: " + ", ".join(f"{task} {loss:.4f}" for task, loss in smoothed.items()))
    return model


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: Dataset,
    collator: MultiTaskCollator,
    trivial: Mapping[str, Tensor],
    accelerator: Accelerator,
    batch_size: int,
) -> tuple[MultiTaskMetrics, MultiTaskMetrics]:
    """Metrics of the model and of the trivial predictor over the whole split, whatever the number of processes."""
    model.eval()
    specs = collator.processor.task_specs
    ours, baseline = MultiTaskMetrics(specs), MultiTaskMetrics(specs)
    # Every row is seen by exactly one process; a prepared loader would repeat rows to even out its batches.
    with accelerator.split_between_processes(list(range(len(dataset)))) as rows:
        for start in tqdm(range(0, len(rows), batch_size), desc="evaluating", disable=not accelerator.is_main_process, mininterval=5):
            batch = collator([dataset[row] for row in rows[start : start + batch_size]])
            outputs = model(pixel_values=batch["pixel_values"].to(accelerator.device))
            for number, result in enumerate(collator.processor.post_process(outputs)):
                targets = {task: target[number] for task, target in batch["labels"].items()}
                ours.update({task: maps["prediction"] for task, maps in result.items()}, targets)
                baseline.update(trivial, targets)
    for metrics in (ours, baseline):
        collected = gather_object([metrics.sums])
        metrics.sums = {}
        for sums in collected:
            metrics.merge(sums)
    return ours, baseline


def learn_trivial_predictor(dataset: Dataset, collator: MultiTaskCollator, most: int = 500) -> dict[str, Tensor]:
    """One constant map a task, from at most `most` evenly spread training images."""
    rows = torch.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().int().tolist()
    targets = [collator([dataset[row]])["labels"] for row in rows]
    specs = collator.processor.task_specs
    return constant_predictions({task: torch.cat([target[task] for target in targets]) for task in specs}, specs)


def results_table(ours: MultiTaskMetrics, baseline: MultiTaskMetrics) -> str:
    """Markdown table of both predictors, the better number of each row marked."""
    lines = ["| task | metric | MulT | trivial | MulT is better |", "|---|---|---|---|---|"]
    trivial = baseline.compute()
    for name, value in ours.compute().items():
        task, metric = name.split("/")
        better = "yes" if ours.is_better(name, value, trivial[name]) else "no"
        direction = "higher" if ours.metrics[task][metric].higher_is_better else "lower"
        lines.append(f"| {task} | {metric} ({direction} is better) | {value:.4f} | {trivial[name]:.4f} | {better} |")
    return "\n".join(lines)


@torch.no_grad()
def save_panel(model: nn.Module, dataset: Dataset, collator: MultiTaskCollator, path: Path, rows: int, device: torch.device) -> None:
    """Photos with the prediction and, below it, the truth of every task, in the truth's colours."""
    specs = collator.processor.task_specs
    pictures = []
    for row in torch.linspace(0, len(dataset) - 1, min(rows, len(dataset))).round().int().tolist():
        batch = collator([dataset[row]])
        (result,) = collator.processor.post_process(model(pixel_values=batch["pixel_values"].to(device)))
        predicted, true = [dataset[row]["image"]], [None]
        for task, spec in specs.items():
            target = batch["labels"][task][0].numpy()
            limits = color_limits(target)
            predicted.append(colorize(result[task]["prediction"].cpu(), spec, limits))
            true.append(colorize(target, spec, limits))
        pictures += [predicted, true]
    panel(pictures, ["photo", *specs]).save(path)


def shareable(text: str) -> str:
    """Paths of this machine are of no use to others: what lies in the repository is named from there, the rest from home."""
    return text.replace(f"{ROOT}/", "").replace(str(Path.home()), "~")


def save_card(arguments: TrainingArguments, model: MulTForMultiTaskDensePrediction, numbers: dict[str, Any], table: str) -> None:
    """Fill the template `model_card.md` with what was trained, on what, and how well it does."""
    specs = model.config.task_specs
    name = arguments.output_dir.name
    dataset = Path(arguments.dataset).name if Path(arguments.dataset).is_dir() else arguments.dataset
    results = [
        EvalResult(
            task_type=specs[metric.split("/")[0]].transformers_task or "image-to-image",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=arguments.validation_split,
            metric_type=metric.split("/")[1],
            metric_name=metric,
            metric_value=round(value, 5),
        )
        for metric, value in numbers["model"].items()
    ]
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag=next((HUB_TASKS[s.transformers_task] for s in specs.values() if s.transformers_task in HUB_TASKS), "image-to-image"),
        model_name=name,
        eval_results=results,
        tags=["mult", "multi-task", "multitask-vision", "dense-prediction", *specs],
        metrics=sorted({m.split("/")[1] for m in numbers["model"]}),
    )
    rows = [f"| {s.name} | {s.description} | {'class id' if s.is_classification else s.unit} | {s.channels} |" for s in specs.values()]
    shown = next(iter(specs.values()))
    card = ModelCard.from_template(
        card_data,
        template_path=str(ROOT / "model_card.md"),
        model_name=name,
        model_path=name,
        task_list=", ".join(specs),
        example_line=f'maps["{shown.name}"]["prediction"]  # {shown.description} maps["{shown.name}"]["image"] is its picture.',
        dataset=dataset,
        split=arguments.validation_split,
        train_split=arguments.train_split,
        results_table=table,
        outputs_table="\n".join(["| task | meaning | unit | channels |", "|---|---|---|---|", *rows]),
        block_attention=model.config.block_attention,
        reference_task=model.config.reference_task,
        encoder_weights=arguments.backbone or "random weights",
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        mixed_precision={"no": "full"}.get(arguments.mixed_precision, arguments.mixed_precision),
        seed=arguments.seed,
        command=shareable(shlex.join(["accelerate", "launch", "examples/train.py", *sys.argv[1:]])),
        **{key: numbers[key] for key in ("evaluated_samples", "train_samples", "image_size", "parameters", "steps", "minutes", "device")},
    )
    card.save(arguments.output_dir / "README.md")


def save(
    arguments: TrainingArguments,
    model: MulTForMultiTaskDensePrediction,
    collator: MultiTaskCollator,
    validation: Dataset,
    numbers: dict[str, Any],
    table: str,
) -> None:
    """Write everything that a user of the model needs, and say how to use it."""
    directory = arguments.output_dir
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    collator.processor.save_pretrained(directory)
    (directory / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n")
    save_panel(model, validation, collator, directory / "panel.png", arguments.panel_rows, model.device)
    save_card(arguments, model, numbers, table)
    print(f"saved to {directory}; try it on a photo:")
    print(
        f"""  python -c 'import mult_hf; from transformers import pipeline; maps = pipeline("multitask-vision", """
        f"""model="{directory}")("photo.jpg"); [m["image"].save(t + ".png") for t, m in maps.items()]'"""
    )


def main() -> None:
    """Load, train, evaluate, save."""
    (arguments,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
    accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
    if accelerator.device.type == "cpu":  # where `accelerate launch` allows a process one thread, however many cores there are
        torch.set_num_threads(arguments.cpu_threads or max(1, (os.cpu_count() or 1) // accelerator.num_processes))
    set_seed(arguments.seed)
    start = time.perf_counter()

    specs = select_tasks(arguments)
    training = load_dataset(arguments.dataset, split=arguments.train_split)
    validation = load_dataset(arguments.dataset, split=arguments.validation_split)
    width, height = training[0]["image"].size
    size = {"height": arguments.image_size or height, "width": arguments.image_size or width}

    processor = MulTImageProcessor(size=size, tasks=list(specs.values()))
    plain = MultiTaskCollator(processor)
    loader = DataLoader(
        training,
        batch_size=arguments.batch_size,
        shuffle=True,
        drop_last=len(training) >= arguments.batch_size * accelerator.num_processes,
        num_workers=arguments.num_workers,
        collate_fn=MultiTaskCollator(processor, augment=build_augmentation(arguments, specs)),
    )
    model = build_model(arguments, specs, max(size.values()))
    parameters = f"{sum(p.numel() for p in model.parameters()):,}"
    accelerator.print(
        f"{parameters} parameters; {len(training)} training and {len(validation)} validation images; tasks: {', '.join(specs)}"
    )

    wrapped = train(model, loader, arguments, accelerator)
    minutes = (time.perf_counter() - start) / 60
    accelerator.print(f"trained in {minutes:.1f} minutes")
    trivial = learn_trivial_predictor(training, plain)
    ours, baseline = evaluate(wrapped, validation, plain, trivial, accelerator, arguments.batch_size)
    accelerator.print(results_table(ours, baseline))
    if accelerator.is_main_process:
        numbers = {
            "model": ours.compute(),
            "trivial": baseline.compute(),
            "evaluated_samples": len(validation),
            "train_samples": len(training),
            "image_size": f"{size['height']} x {size['width']}",
            "parameters": parameters,
            "steps": arguments.max_steps,
            "minutes": round(minutes, 1),
            "device": f"{accelerator.device.type} ({platform.machine()}, {torch.get_num_threads()} threads)",
            "arguments": {key: shareable(str(value)) for key, value in asdict(arguments).items()},
        }
        model = accelerator.unwrap_model(wrapped).eval()
        save(arguments, model, plain, validation, numbers, results_table(ours, baseline))
    accelerator.end_training()


if __name__ == "__main__":
    main()
