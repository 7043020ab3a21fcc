"""Train MulT on a multi-task data set, evaluate it beside the constant baseline, and save what a user needs.

    accelerate launch examples/train.py                                   # small model, the shipped Rooms sample
    accelerate launch examples/train.py --config examples/configs/no-sharing.yaml --resume latest
    accelerate launch examples/train.py --dataset user/my-rooms --backbone microsoft/swin-tiny-patch4-window7-224

The data set is a local directory or a Hub id; its card says how labels are stored (docs/data.md). Written to `--output_dir`: the
model, its processor and code, a filled model card, `metrics.json`, `log.jsonl`, `panel.png` with photo, predictions and truth,
`best/` with the best model of the evaluations, and `checkpoints/`, from which `--resume latest` goes on to the same weights as
if the run had never been interrupted (docs/training.md).
"""

import json
import math
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from huggingface_hub import HfApi
from torch import Tensor
from tqdm.auto import tqdm

from mult_hf import MulTConfig, MulTForMultiTaskDensePrediction, MulTImageProcessor, TaskSpec
from mult_hf.cli.arguments import check_bounds, check_mutually_exclusive, flag, json_object, parse_arguments
from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.collator import MultiTaskCollator
from mult_hf.data.schema import load_rows, load_task_specs, missing_columns
from mult_hf.evaluation.baseline import constant_baseline
from mult_hf.evaluation.cards import eval_results, public_name, shareable, to_jsonable, write_card
from mult_hf.evaluation.comparison import gain_over
from mult_hf.evaluation.loop import Evaluation, evaluate
from mult_hf.evaluation.report import example_panel, results_table
from mult_hf.inference.predictor import predict
from mult_hf.model.image_processing_base import MulTBatchFeature
from mult_hf.training.averaging import WeightAverage
from mult_hf.training.checkpoints import clear_for_new_run, find_checkpoint, list_checkpoints, replace_files, save_checkpoint
from mult_hf.training.distributed import check_whole_parameters, configure_deepspeed, peak_memory, use_fsdp_on_cpu, whole_model
from mult_hf.training.optimization import learning_rate_schedule, parameter_groups
from mult_hf.training.progress import JsonLinesLog, Progress, describe_rows, mean_over_processes
from mult_hf.training.publishing import upload
from mult_hf.training.starting import init_sincos_position_embeddings, load_trained, new_swin
from mult_hf.training.stream import StreamBatches, TrainingStream, stream_loader
from mult_hf.training.weighting import WEIGHTINGS, TaskWeighting, make_weighting

ROOT = Path(__file__).resolve().parents[1]

# The paper's blocks with the encoder's map in the values, which did better on small data (docs/baselines.md).
DEFAULT_BLOCKS = {"mult": ["self+skip", "encoder+skip"]}

AT_LEAST = {
    0: ("num_workers", "warmup_steps", "learning_rate", "encoder_learning_rate_factor", "weight_decay", "max_grad_norm", "ema_decay"),
    1: (
        *("max_steps", "batch_size", "gradient_accumulation_steps", "eval_steps", "save_steps", "keep_checkpoints", "logging_steps"),
        *("max_zoom", "panel_rows", "cpu_threads"),
    ),
    32: ("image_size",),
}
# What a named model or encoder brings along, so that these flags would do nothing beside it.
NEW_SWIN = ("embed_dim", "depths", "window_size", "position_embeddings")
MUTUALLY_EXCLUSIVE = {
    "model": ("backbone", *NEW_SWIN, "decoder", "block_attention", "reference_task", "drop_path_rate"),
    "backbone": NEW_SWIN,
}


@dataclass
class TrainingArguments:
    """Everything that the run depends on; each field is a flag, and a key of the file that `--config` names."""

    config: Path | None = flag(None, "YAML or JSON file of flags; those on the command line win")
    # Data
    dataset: str = flag(str(ROOT / "examples/data/rooms-sample"), "local directory or Hub id")
    train_split: str = flag("train", "split to train on")
    validation_split: str = flag("validation", "split to evaluate on")
    tasks: list[str] | None = flag(None, "names of tasks to train; all of the data set by default")
    image_size: int | None = flag(None, "side of training images in pixels; as stored by default")
    max_zoom: float = flag(1.15, "training views are magnified by 1 to this factor, and cropped")
    color_jitter: float = flag(0.2, "brightness, contrast and saturation change by up to this share")
    num_workers: int = flag(0, "processes that prepare batches")
    # Model
    model: str | None = flag(None, "directory or Hub id of a trained MulT to go on from; a new model by default")
    backbone: str | None = flag(None, "directory or Hub id of a pretrained encoder; a small new Swin by default")
    embed_dim: int = flag(24, "channels of a new Swin's first stage")
    depths: list[int] = flag([2, 2, 2, 2], "blocks of a new Swin's stages")
    window_size: int = flag(8, "side of a new Swin's windows, in patches of 4 pixels")
    position_embeddings: bool = flag(True, "absolute position embeddings in a new Swin")
    decoder: str = flag("mult", "kind of the decoders: mult, swin_unet or mtan")
    block_attention: list[str] | None = flag(
        None, "kinds of a decoder stage's blocks; self+skip encoder+skip by default, the paper's: self encoder"
    )
    reference_task: str | None = flag(None, "task that makes the shared attention; normals by default")
    drop_path_rate: float = flag(0.0, "stochastic depth of a new Swin and of the decoders")
    # Optimisation
    max_steps: int = flag(450, "optimizer steps")
    batch_size: int = flag(8, "images a step and process")
    gradient_accumulation_steps: int = flag(1, "batches whose gradients are averaged before a step")
    learning_rate: float = flag(2e-3, "largest learning rate, after the warm-up")
    encoder_learning_rate_factor: float = flag(1.0, "the encoder's learning rate over that of decoders and heads")
    schedule: Literal["cosine", "polynomial", "linear", "constant_with_warmup"] = flag("cosine", "course of the learning rate")
    schedule_power: float = flag(0.9, "exponent of the polynomial schedule")
    warmup_steps: int = flag(30, "steps in which the learning rate grows, at most half of all")
    weight_decay: float = flag(0.05, "AdamW's, on weight matrices only")
    max_grad_norm: float = flag(5.0, "gradients are scaled down to this norm")
    ema_decay: float = flag(0.0, "the weights that are evaluated and saved are a moving average with this decay; 0 for none")
    weighting: str = flag("fixed", f"how task losses are balanced: {', '.join(WEIGHTINGS)}")
    weighting_options: str = flag("{}", "JSON object of options of the weighting, see docs/weighting.md")
    seed: int = flag(0, "of weights, order and augmentation")
    # Execution
    mixed_precision: Literal["no", "bf16", "fp16"] | None = flag(None, "by default as `accelerate config` says")
    torch_compile: str | None = flag(None, "backend of torch.compile, such as inductor; not compiled by default")
    float32_matmul: Literal["highest", "high", "medium"] = flag(
        "highest",
        "precision inside float32 matrix products; medium lets processors with bfloat16 units take these, as high does TF32 on GPUs",
    )
    cpu_threads: int | None = flag(None, "threads a process without accelerator; all cores, shared, by default")
    # Results
    output_dir: Path = flag(Path("outputs/mult-rooms"), "where everything is written")
    eval_steps: int | None = flag(None, "steps between evaluations; only at the end by default")
    save_steps: int = flag(50, "steps between checkpoints")
    keep_checkpoints: int = flag(2, "how many of them stay")
    resume: str | None = flag(None, "latest, or a checkpoint's directory, to go on from; latest starts anew where there is none")
    overwrite: bool = flag(False, "delete the checkpoints of an earlier run in --output_dir")
    logging_steps: int = flag(10, "steps between entries of log.jsonl and of the trackers")
    log_with: list[str] | None = flag(None, "trackers of Accelerate: tensorboard, trackio, wandb, ...; log.jsonl is always written")
    panel_rows: int = flag(4, "validation images in panel.png")
    push_to_hub: str | None = flag(None, "id of the Hub repository to upload the result to")

    def __post_init__(self) -> None:
        check_bounds(self, AT_LEAST)
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"--weighting is {self.weighting!r}; allowed: {', '.join(WEIGHTINGS)}")
        if not self.ema_decay < 1:
            raise ValueError(f"--ema_decay is {self.ema_decay}; it must be at least 0 and below 1")
        for owner, names in MUTUALLY_EXCLUSIVE.items():
            check_mutually_exclusive(self, owner, names)


# What may differ between an interrupted run and the one that goes on: where it runs and what it writes, not what it learns.
FREE_TO_CHANGE = {
    *("config", "num_workers", "cpu_threads", "output_dir", "save_steps", "keep_checkpoints", "resume", "overwrite", "log_with"),
    *("panel_rows", "push_to_hub", "eval_steps", "logging_steps"),
}


def make_accelerator(arguments: TrainingArguments) -> Accelerator:
    """Accelerate, as its configuration and the flags say."""
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # or else several processes would not know of each other
        mixed_precision=arguments.mixed_precision,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        dynamo_backend=arguments.torch_compile,
        log_with=arguments.log_with,
        project_dir=arguments.output_dir,
    )
    use_fsdp_on_cpu(accelerator)
    configure_deepspeed(accelerator, arguments.batch_size, arguments.gradient_accumulation_steps, arguments.max_grad_norm)
    torch.set_float32_matmul_precision(arguments.float32_matmul)
    if accelerator.device.type == "cpu":  # where `accelerate launch` allows a process one thread, however many cores there are
        torch.set_num_threads(arguments.cpu_threads or max(1, (os.cpu_count() or 1) // accelerator.num_processes))
    return accelerator


def build_model(arguments: TrainingArguments, specs: Mapping[str, TaskSpec], image_size: int) -> MulTForMultiTaskDensePrediction:
    """The named model, or a new one on a pretrained encoder if one is named, or else on a new small Swin."""
    if arguments.model is not None:
        return load_trained(arguments.model, specs)
    decoder = {
        "tasks": list(specs.values()),
        "reference_task": arguments.reference_task,
        "decoder_type": arguments.decoder,
        "block_attention": arguments.block_attention or DEFAULT_BLOCKS.get(arguments.decoder),
        "drop_path_rate": arguments.drop_path_rate,
    }
    if arguments.backbone is not None:
        return MulTForMultiTaskDensePrediction.from_backbone(arguments.backbone, **decoder)
    swin = new_swin(
        arguments.embed_dim, arguments.depths, arguments.window_size, image_size, arguments.position_embeddings, arguments.drop_path_rate
    )
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=swin, **decoder))
    init_sincos_position_embeddings(model)
    return model


class Run:
    """Everything that a training run holds, prepared by Accelerate; `train` goes on from where it stands."""

    def __init__(
        self,
        arguments: TrainingArguments,
        accelerator: Accelerator,
        model: MulTForMultiTaskDensePrediction,
        training: Dataset,
        validation: Dataset,
        processor: MulTImageProcessor,
    ) -> None:
        self.arguments, self.accelerator, self.validation = arguments, accelerator, validation
        self.specs = processor.task_specs
        self.stream = TrainingStream(training, arguments.seed)
        self.plain = MultiTaskCollator(processor)
        jitter = dict.fromkeys(("brightness", "contrast", "saturation"), arguments.color_jitter)
        views = RandomAugmentation(tasks=self.specs, zoom=(1.0, arguments.max_zoom), degrees=0.0, hue=0.0, **jitter)
        self.collator = MultiTaskCollator(processor, augment=views)
        self.constant_baseline = constant_baseline(training, self.plain)
        self.baseline: Evaluation | None = None
        self.checkpoints = arguments.output_dir / "checkpoints"
        self.log_file = JsonLinesLog(arguments.output_dir / "log.jsonl")
        self.weighting: TaskWeighting = make_weighting(
            arguments.weighting, self.specs, model, **json_object("weighting_options", arguments.weighting_options)
        )
        if arguments.torch_compile:
            self.weighting.refuse_compiled()
        groups = parameter_groups(
            model,
            learning_rate=arguments.learning_rate,
            weight_decay=arguments.weight_decay,
            encoder_factor=arguments.encoder_learning_rate_factor,
        )
        optimizer = torch.optim.AdamW(groups)
        self.schedule = learning_rate_schedule(
            optimizer, arguments.schedule, steps=arguments.max_steps, warmup_steps=arguments.warmup_steps, power=arguments.schedule_power
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.module = accelerator.unwrap_model(self.model, keep_torch_compile=False)
        check_whole_parameters(accelerator, self.module, average=arguments.ema_decay > 0)
        self.average = WeightAverage(self.module, arguments.ema_decay) if arguments.ema_decay else None
        self.progress = Progress({k: shareable(str(v), ROOT) for k, v in asdict(arguments).items() if k not in FREE_TO_CHANGE})
        self.progress.arguments |= {"num_processes": str(accelerator.num_processes), "mixed_precision": accelerator.mixed_precision}
        accelerator.init_trackers(arguments.output_dir.resolve().name, config=self.progress.arguments)
        for part in (self.schedule, self.weighting, self.progress, self.average):
            if part is not None:
                accelerator.register_for_checkpointing(part)

    def resume(self, checkpoint: Path | None) -> None:
        """Take up the state of a checkpoint, or start anew where there is none."""
        if checkpoint is not None:
            self.accelerator.load_state(str(checkpoint))
            self.accelerator.print(f"going on from {checkpoint}, step {self.progress.step} of {self.arguments.max_steps}")
        if self.accelerator.is_main_process:
            finished = self.progress.step == self.arguments.max_steps  # then the last evaluation is all that comes again
            self.log_file.drop_after(self.progress.step, again="gain_over_baseline" if finished else None)

    def train(self) -> None:
        """Optimizer steps up to the last, with entries in the log, evaluations and checkpoints on the way."""
        arguments, progress = self.arguments, self.progress
        start = progress.step * arguments.gradient_accumulation_steps
        sampler = StreamBatches(arguments.batch_size, self.accelerator.process_index, self.accelerator.num_processes, start)
        pinned = self.accelerator.device.type == "cuda"
        loader = stream_loader(self.stream, sampler, self.collator, num_workers=arguments.num_workers, pin_memory=pinned)
        numbered = enumerate(loader, start)
        silent = not self.accelerator.is_main_process
        bar = tqdm(desc="training", initial=progress.step, total=arguments.max_steps, disable=silent, mininterval=5)
        self.model.train()
        while progress.step < arguments.max_steps:
            started = time.perf_counter()
            batches = [next(numbered) for _ in range(arguments.gradient_accumulation_steps)]
            norm = self.take_step(batches, sampler)
            progress.step += 1
            progress.seconds += time.perf_counter() - started
            bar.update()
            if progress.step % arguments.logging_steps == 0:
                bar.set_postfix(self.write_log(norm, time.perf_counter() - started), refresh=False)
            if arguments.eval_steps and progress.step % arguments.eval_steps == 0 and progress.step < arguments.max_steps:
                self.evaluate()
            if progress.step % arguments.save_steps == 0 or progress.step == arguments.max_steps:
                progress.losses = mean_over_processes(progress.losses)  # a checkpoint holds those of one process
                save_checkpoint(self.accelerator, self.checkpoints, progress.step, arguments.keep_checkpoints)

    def take_step(self, batches: Sequence[tuple[int, MulTBatchFeature]], sampler: StreamBatches) -> float:
        """One optimizer step from numbered batches; returns the norm of the gradients before clipping.

        Raises:
            FloatingPointError: if a loss or gradient is not finite; the weights are still those before the step.
        """
        for number, batch in batches:
            batch = batch.to(self.accelerator.device)
            with self.accelerator.accumulate(self.model):
                model = self.module if self.weighting.writes_gradients else self.model
                outputs = model(
                    pixel_values=batch["pixel_values"], labels=batch["labels"], output_hidden_states=self.weighting.reads_features
                )
                self.note_losses(outputs.task_losses, sampler.positions(number))
                self.weighting.backward(outputs.task_losses, outputs.hidden_states or (), self.accelerator)
                del outputs  # gradient methods keep a part of its graph, which would lie beside that of the next batch
                if self.accelerator.sync_gradients:
                    norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.arguments.max_grad_norm))
                    self.check_finite({"gradient": norm}, [position for n, _ in batches for position in sampler.positions(n)])
                self.optimizer.step()
                self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:  # as a step is whose scaled half-precision gradients overflow
            self.schedule.step()
            if self.average is not None:
                self.average.update()
        return norm

    def note_losses(self, task_losses: Mapping[str, Tensor], positions: Sequence[int]) -> None:
        """Check the losses of a batch and add them to what the next entry of the log tells."""
        losses = dict(zip(task_losses, torch.stack([*task_losses.values()]).tolist()))
        self.check_finite(losses, positions)
        self.progress.note_losses(losses)

    def check_finite(self, values: Mapping[str, float], positions: Sequence[int]) -> None:
        """Stop before a step that would ruin the weights."""
        wrong = {name: value for name, value in values.items() if not math.isfinite(value)}
        if wrong and not (self.accelerator.scaler is not None and "gradient" in wrong):  # the scaler itself skips such steps
            found = list_checkpoints(self.checkpoints)
            raise FloatingPointError(
                f"step {self.progress.step + 1}: {', '.join(f'{name} is {value}' for name, value in wrong.items())}; samples of the batch: "
                f"{'; '.join(describe_rows(self.stream, positions))}; last good checkpoint: {found[-1] if found else 'none yet'}; "
                "look at these samples, or lower the learning rate"
            )

    def write_log(self, norm: float, seconds: float) -> dict[str, str]:
        """One entry for log file and trackers, the means since the last one; returns what the progress bar shows."""
        progress = self.progress
        losses = progress.take_mean_losses()
        seen = progress.step * self.arguments.gradient_accumulation_steps * self.arguments.batch_size * self.accelerator.num_processes
        entry = {
            "step": progress.step,
            "epoch": round(seen / len(self.stream.rows), 4),
            "learning_rate": self.schedule.get_last_lr()[-1],
            "gradient_norm": norm,
            "seconds_per_step": round(seconds, 4),
            **{f"loss/{task}": loss for task, loss in losses.items()},
            **{f"weight/{task}": weight for task, weight in self.weighting.weights.items()},
        }
        self.record(entry)
        return {task: f"{loss:.3g}" for task, loss in losses.items()}

    def record(self, entry: dict[str, Any]) -> None:
        """Tell the log file and the trackers."""
        if self.accelerator.is_main_process:
            self.log_file.append(entry)
        self.accelerator.log({key: value for key, value in entry.items() if key != "step"}, step=entry["step"])

    def evaluate(self) -> dict[str, Evaluation]:
        """Measure the model, and the constant baseline once, on the validation split; keep the model in `best/` if it is the best.

        Best is the highest multi-task gain over the constant baseline, so that every task counts alike.
        """
        with self.final_weights() as model:
            predictors = {"MulT": partial(predict, model), **({} if self.baseline else {"constant baseline": self.constant_baseline})}
            loading = {"batch_size": self.arguments.batch_size, "num_workers": self.arguments.num_workers}
            found = evaluate(predictors, self.validation, self.plain, self.accelerator, per_image=False, **loading)
            self.baseline = found.get("constant baseline", self.baseline)
            values = found["MulT"].compute()
            gain = gain_over(values, self.baseline.compute(), self.specs)
            self.record({"step": self.progress.step, "gain_over_baseline": gain, **{f"eval/{name}": v for name, v in values.items()}})
            if gain > self.progress.best_gain:
                self.progress.best_gain, self.progress.best_step = gain, self.progress.step
                self.save_model(model, self.arguments.output_dir / "best")
        return {"MulT": found["MulT"], "constant baseline": self.baseline}

    @contextmanager
    def final_weights(self) -> Iterator[MulTForMultiTaskDensePrediction]:
        """The model as it is evaluated and saved: whole, in evaluation mode, with averaged weights where there are such."""
        with nullcontext() if self.average is None else self.average.in_place():
            model = whole_model(self.accelerator, self.model).eval()
            yield model
        self.model.train()

    def save_model(self, model: MulTForMultiTaskDensePrediction, directory: Path) -> None:
        """Write model and processor, in the main process; an interruption leaves the old files or the new ones."""
        if self.accelerator.is_main_process:
            unfinished = directory / ".partial"  # within, since the directory may be a disk of its own
            shutil.rmtree(unfinished, ignore_errors=True)
            model.save_pretrained(unfinished)
            self.plain.processor.save_pretrained(unfinished)
            replace_files(unfinished, directory)
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Evaluate and save the last weights with panel, numbers and card, and upload them if asked to."""
        arguments, accelerator = self.arguments, self.accelerator
        evaluations = self.evaluate()
        table = results_table(evaluations)
        accelerator.print(table)
        numbers = {name: evaluation.compute() for name, evaluation in zip(("model", "constant_baseline"), evaluations.values())}
        numbers |= {"gain_over_baseline": gain_over(numbers["model"], numbers["constant_baseline"], self.specs), **self.facts()}
        with self.final_weights() as model:
            self.save_model(model, arguments.output_dir)
            if accelerator.is_main_process:
                (arguments.output_dir / "metrics.json").write_text(json.dumps(to_jsonable(numbers), indent=2) + "\n")
                example_panel(model, self.validation, self.plain, arguments.panel_rows).save(arguments.output_dir / "panel.png")
                save_card(arguments, model, numbers, table)
        if arguments.push_to_hub is not None and accelerator.is_main_process:
            print(f"uploaded to {upload(arguments.output_dir, arguments.push_to_hub)}")

    def facts(self) -> dict[str, Any]:
        """What `metrics.json` and the model card tell of the run beside its results."""
        size, device = self.plain.processor.size, self.accelerator.device
        return {
            "dataset": public_name(self.arguments.dataset),
            "split": self.arguments.validation_split,
            "evaluated_samples": len(self.validation),
            "train_samples": len(self.stream.rows),
            "image_size": f"{size['height']} x {size['width']}",
            "parameters": f"{sum(p.numel() for p in self.module.parameters()):,}",
            "steps": self.progress.step,
            "minutes": round(self.progress.seconds / 60, 1),
            "peak_memory_mib": round(peak_memory(device)),
            "mixed_precision": self.accelerator.mixed_precision,
            "processes": self.accelerator.num_processes,
            "device": f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)",
            "best_step": self.progress.best_step,
            "best_gain_over_baseline": self.progress.best_gain,
            "arguments": {key: shareable(str(value), ROOT) for key, value in asdict(self.arguments).items()},
        }


def save_card(arguments: TrainingArguments, model: MulTForMultiTaskDensePrediction, numbers: dict[str, Any], table: str) -> None:
    """Fill the template `model_card.md` with what was trained, on what, and how well it does."""
    specs = model.config.task_specs
    write_card(
        arguments.output_dir / "README.md",
        ROOT / "model_card.md",
        specs,
        eval_results(numbers["model"], specs, numbers["dataset"], arguments.validation_split),
        train_split=arguments.train_split,
        results_table=table,
        decoder=arguments.decoder if model.config.block_attention is None else f"blocks {model.config.block_attention}",
        reference_task=model.config.reference_task or "none",
        start=arguments.model or arguments.backbone or "random weights",
        batch_size=arguments.batch_size * arguments.gradient_accumulation_steps * numbers["processes"],
        learning_rate=arguments.learning_rate,
        weighting=arguments.weighting,
        seed=arguments.seed,
        command=shareable(shlex.join(["accelerate", "launch", "examples/train.py", *sys.argv[1:]]), ROOT),
        **numbers,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Load, train, evaluate, save; `argv` are those of the command line by default."""
    arguments = parse_arguments(TrainingArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    accelerator = make_accelerator(arguments)
    checkpoints = arguments.output_dir / "checkpoints"
    if arguments.resume is None and accelerator.is_main_process:
        clear_for_new_run(checkpoints, overwrite=arguments.overwrite)
    if arguments.push_to_hub is not None and accelerator.is_main_process:
        HfApi().create_repo(arguments.push_to_hub, exist_ok=True)  # a missing token is told now, not after hours
    accelerator.wait_for_everyone()
    set_seed(arguments.seed)

    specs = load_task_specs(arguments.dataset, arguments.tasks)
    training = load_rows(arguments.dataset, split=arguments.train_split)
    validation = load_rows(arguments.dataset, split=arguments.validation_split)
    if missing := missing_columns(training.column_names, specs):
        accelerator.print(f"no column of the training data is called {' or '.join(missing)}: unknown everywhere, not learnt")
    width, height = training[0]["image"].size
    size = {"height": arguments.image_size or height, "width": arguments.image_size or width}
    processor = MulTImageProcessor(size=size, tasks=list(specs.values()))
    model = build_model(arguments, specs, max(size.values()))
    set_seed(arguments.seed, device_specific=True)  # processes start from the same weights, and drop different paths

    run = Run(arguments, accelerator, model, training, validation, processor)
    parameters = run.facts()["parameters"]
    accelerator.print(
        f"{parameters} parameters; {len(training)} training and {len(validation)} validation images; tasks: {', '.join(specs)}"
    )
    run.resume(None if arguments.resume is None else find_checkpoint(checkpoints, arguments.resume))
    run.train()
    accelerator.print(f"trained for {run.progress.seconds / 60:.1f} minutes")
    run.finish()
    accelerator.print(
        f"""saved to {arguments.output_dir}; try it on a photo:\n  python -c 'import mult_hf; from transformers import pipeline; """
        f"""maps = pipeline("multitask-vision", model="{arguments.output_dir}")("photo.jpg"); """
        """[m["image"].save(t + ".png") for t, m in maps.items()]'"""
    )
    accelerator.end_training()


if __name__ == "__main__":
    main()
