"""The training loop: optimizer steps, log entries, evaluations and checkpoints."""

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset, Value
from torch import Tensor
from torch.distributed.tensor import DTensor
from tqdm.auto import tqdm
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME

from mult_hf.data.augmentations import RandomAugmentation
from mult_hf.data.batch_views import BatchViews
from mult_hf.data.collator import Augmentation, MultiTaskCollator
from mult_hf.data.image_column import as_image_columns
from mult_hf.data.row_errors import SOURCE_COLUMN, naming_split
from mult_hf.data.streaming import first_rows
from mult_hf.data.workers import naming_killed_workers
from mult_hf.model.image_processing_base import MulTProcessingMixin
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.normalisation import Normalisation
from mult_hf.model.tasks import TaskSpec
from mult_hf.model.weights import listing_fresh_weights

from .arguments import FREE_TO_CHANGE, TrainingArguments, as_text
from .averaging import WeightAverage
from .batches import StreamedBatches, TrainingBatch, make_batches
from .checkpoints import BEST, describing_write_errors, list_checkpoints, save_checkpoint
from .distributed import check_whole_parameters, share_statistics, whole_model
from .fields import json_object
from .fingerprint import describe_data, describe_entries, describe_model
from .optimization import learning_rate_schedule, make_optimizer, parameter_groups
from .progress import JsonLinesLog, Progress, mean_over_processes
from .run_state import RunState
from .saving import save_model
from .validation import Measured, Validation
from .weighting import TaskWeighting, label_shares, make_weighting

BASELINE_ROWS = 128
"""Streamed rows that are read at the start, for the constant baseline and for detecting changed data."""


def random_views(arguments: TrainingArguments, processor: MulTProcessingMixin) -> RandomAugmentation:
    """The changes of training views: random flip, zoom, crop, colours, and what cameras add.

    Args:
        arguments: of the run.
        processor: the image processor; with the size `shortest_edge` it keeps aspect ratios, so that square windows are cut out.
    """
    side = processor.size.get("shortest_edge")
    jitter: dict[str, Any] = dict.fromkeys(("brightness", "contrast", "saturation"), arguments.color_jitter)
    same: dict[str, Any] = {name: getattr(arguments, name) for name in ("hue", "white_balance", "gamma", "blur", "noise", "jpeg")}
    zoom = (arguments.min_zoom, arguments.max_zoom)
    window = None if side is None else (side, side)
    return RandomAugmentation(tasks=processor.task_specs, size=window, zoom=zoom, degrees=arguments.rotation, **jitter, **same)


def training_views(arguments: TrainingArguments, processor: MulTProcessingMixin) -> Augmentation:
    """The augmentation of training views in the loader, with the targets that are computed from views."""
    views = random_views(arguments, processor)
    if arguments.targets_of_views is None:
        return views
    from mult_hf.data.view_targets import TargetsOfViews  # which needs the extra `data`; other runs do not

    return TargetsOfViews(views, arguments.targets_of_views, arguments.targets_of_views_share)


def views_on_device(arguments: TrainingArguments, processor: MulTProcessingMixin) -> BatchViews:
    """The same views, made from whole batches on the device."""
    normalisation = vars(Normalisation.of(processor))
    targets = tuple(arguments.targets_of_views or ())
    return BatchViews(random_views(arguments, processor), **normalisation, targets_of_views=targets, share=arguments.targets_of_views_share)


def _is_mixture(rows: Dataset, tasks_by_source: Collection[str]) -> bool:
    """Whether rows say from which data set they are. A single data set may have a column of that name for something else."""
    column = rows.features.get(SOURCE_COLUMN)
    is_text = isinstance(column, Value) and column.dtype in ("string", "large_string")
    return bool(tasks_by_source) and is_text and not set(rows.unique(SOURCE_COLUMN)).isdisjoint(tasks_by_source)


class TrainingLoop:
    """The state of a training run, prepared by Accelerate; [`run`][TrainingLoop.run] continues from the current step.

    Args:
        arguments: arguments of the run.
        accelerator: the processes and devices.
        model: the model to train.
        processor: the image processor, which prepares batches and is saved with the model.
        training_rows: rows to train on, stored or streamed.
        validation_rows: rows to evaluate on, of one data set or of a mixture.
        tasks_by_source: for a mixture of data sets, the entries of each, see [`MultiTaskCollator`].
        baseline_rows: rows for the constant baseline; the training rows by default.
        contents: of streamed rows, for detecting changes: a description of their files.

    Raises:
        ValueError: if a setting is incompatible with other settings, the model or its distribution.
    """

    def __init__(
        self,
        arguments: TrainingArguments,
        accelerator: Accelerator,
        model: MulTForMultiTaskDensePrediction,
        processor: MulTProcessingMixin,
        training_rows: Dataset | IterableDataset,
        validation_rows: Dataset,
        tasks_by_source: Mapping[str, Mapping[str, TaskSpec]] | None = None,
        baseline_rows: Dataset | None = None,
        contents: str | None = None,
    ) -> None:
        self.arguments, self.accelerator, self.processor = arguments, accelerator, processor
        # `datasets` puts its own columns back where a program joins rows, or maps them and reads the result from its cache.
        training_rows, validation_rows = as_image_columns(training_rows), as_image_columns(validation_rows)
        baseline_rows = None if baseline_rows is None else as_image_columns(baseline_rows)
        tasks_by_source = tasks_by_source or None
        collator = MultiTaskCollator(processor, training_views(arguments, processor), tasks_by_source)
        self.views = views_on_device(arguments, processor) if arguments.views_on_device else None
        collate = collator if self.views is None else collator.without_views
        self.batches = make_batches(training_rows, collate, arguments, accelerator)
        loading = {"batch_size": arguments.batch_size, "num_workers": arguments.num_workers}
        streamed = isinstance(training_rows, IterableDataset)
        if baseline_rows is None:
            baseline_rows = first_rows(training_rows, BASELINE_ROWS) if streamed else training_rows
        # Rows of a mixture are decoded as their own data set stores them, and other rows with the processor's entries.
        of_baseline, of_validation = (
            MultiTaskCollator(processor, None, tasks_by_source if _is_mixture(rows, tasks_by_source or {}) else None)
            for rows in (baseline_rows, validation_rows)
        )
        self.validation = Validation(baseline_rows, validation_rows, of_validation, accelerator, baseline_collator=of_baseline, **loading)
        self.has_trained = False
        self.untaught: Sequence[str] = ()  # tasks without labels, whose weights stay as they are
        self.kept: Sequence[str] = ()  # those, and tasks that are frozen
        self.checkpoints = arguments.output_dir / "checkpoints"
        self.log_file = JsonLinesLog(arguments.output_dir / "log.jsonl")
        if arguments.encoder_learning_rate_factor == 0:  # with its statistics, and without its gradients
            model.mult.backbone.requires_grad_(False)
        self.weighting = self._make_weighting(model)
        self._prepare(model)
        self.progress = Progress(
            {name: text for name, text in as_text(arguments).items() if name not in FREE_TO_CHANGE},
            describe_data(accelerator, training=baseline_rows if streamed else training_rows, validation=validation_rows),
        )
        specs = processor.task_specs
        sources = [collator.tasks_of(source, specs) for source in tasks_by_source or [None]]
        self.progress.data |= describe_entries(sources) | describe_model(processor, model.config)
        self.progress.arguments |= {"mixed_precision": accelerator.mixed_precision}
        self.progress.arguments |= self._division(streamed)
        if streamed:  # reading all rows would take as long as an epoch
            self.progress.data["training_files"] = f"{training_rows.num_shards} shards, {contents or 'of unknown files'}"
        accelerator.init_trackers(arguments.output_dir.resolve().name, config=self.progress.arguments)
        parts: dict[str, Any] = {"progress": self.progress, "schedule": self.schedule, "weighting": self.weighting, "average": self.average}
        parts = {name: part for name, part in parts.items() if part is not None}
        own = {"stream": self.batches} if isinstance(self.batches, StreamedBatches) else {}
        self.state = RunState(accelerator, self.model, self.optimizer, parts, trusted=self.checkpoints, own_parts=own)

    def _division(self, streamed: bool) -> dict[str, str]:
        """How samples are divided among processes, as far as a resumed run must keep it: of stored rows, their number per batch alone."""
        processes = self.accelerator.num_processes
        if streamed:
            return {"num_processes": str(processes)}
        del self.progress.arguments["batch_size"]
        return {"batch_size of all processes": str(self.arguments.batch_size * processes)}

    def _make_weighting(self, model: MulTForMultiTaskDensePrediction) -> TaskWeighting:
        options = json_object("weighting_options", self.arguments.weighting_options)
        weighting = make_weighting(self.arguments.weighting, self.processor.task_specs, model, **options)
        if self.arguments.torch_compile:
            weighting.refuse_compiled()
        return weighting

    def _prepare(self, model: MulTForMultiTaskDensePrediction) -> None:
        """Create optimizer and schedule, and wrap the model for its processes and device."""
        arguments = self.arguments
        groups = parameter_groups(
            model,
            learning_rate=arguments.learning_rate,
            weight_decay=arguments.weight_decay,
            encoder_factor=arguments.encoder_learning_rate_factor,
        )
        optimizer = make_optimizer(groups, self.accelerator)
        self.schedule = learning_rate_schedule(
            optimizer, arguments.schedule, steps=arguments.max_steps, warmup_steps=arguments.warmup_steps, power=arguments.schedule_power
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.module = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        check_whole_parameters(self.accelerator, self.module, average=arguments.ema_decay > 0)
        self.average = WeightAverage(self.module, arguments.ema_decay) if arguments.ema_decay else None

    def resume(self, checkpoint: Path | None) -> None:
        """Load the state of a checkpoint, or start from scratch if there is none."""
        if checkpoint is not None:
            self.state.load(checkpoint)
            if checkpoint.resolve().parent != self.checkpoints.resolve():
                self.progress.best_gain, self.progress.best_step = -math.inf, 0
                self.accelerator.print(f"log.jsonl and {BEST}/ of the steps so far stay beside {checkpoint.parent}")
            self.accelerator.print(f"resuming from {checkpoint}, step {self.progress.step} of {self.arguments.max_steps}")
        if self.accelerator.is_main_process:
            finished = self.progress.step == self.arguments.max_steps  # then only the final evaluation is repeated
            self.log_file.drop_after(self.progress.step, again="gain_over_baseline" if finished else None)

    @naming_killed_workers("continue with --resume latest")
    def run(self) -> None:
        """Take all remaining optimizer steps, with log entries, evaluations and checkpoints in between.

        Raises:
            OSError: if something cannot be written, or a process that reads data was killed.
            ValueError: if a row cannot be used; validation rows are all read before the first step.
            FloatingPointError: if a loss, a gradient or a weight is not finite.
        """
        arguments, progress = self.arguments, self.progress
        self.has_trained = progress.step < arguments.max_steps
        if self.has_trained:
            self.validation.measure_baseline()
        self.batches.start(progress.step * arguments.gradient_accumulation_steps)
        silent = not self.accelerator.is_main_process
        self.model.train()
        # Closed by an error, too, so that its message starts on a line of its own.
        bar = tqdm(desc="training", initial=progress.step, total=arguments.max_steps, disable=silent, mininterval=5)
        with closing(self.batches), bar:
            while progress.step < arguments.max_steps:
                started = time.perf_counter()
                with naming_split("training"):
                    batches = [next(self.batches) for _ in range(arguments.gradient_accumulation_steps)]
                norm = self.take_step(batches)
                progress.step += 1
                progress.seconds += time.perf_counter() - started
                bar.update()
                if progress.step % arguments.logging_steps == 0:
                    bar.set_postfix(self.write_log(norm, time.perf_counter() - started), refresh=False)
                last = progress.step == arguments.max_steps
                saves = last or progress.step % arguments.save_steps == 0
                evaluates = arguments.eval_steps and progress.step % arguments.eval_steps == 0 and not last
                if saves or evaluates:
                    self.check_weights()
                if evaluates:
                    self.evaluate()
                if saves:
                    # A checkpoint contains those of one process.
                    progress.losses, progress.known = mean_over_processes(progress.losses), mean_over_processes(progress.known)
                    save_checkpoint(self.accelerator, self.write_checkpoint, self.checkpoints, progress.step, arguments.keep_checkpoints)

    @contextmanager
    def saying_how_to_continue(self) -> Iterator[None]:
        """After an interruption, say what is saved."""
        try:
            yield
        except KeyboardInterrupt:
            saved = list_checkpoints(self.checkpoints)
            continued = f"--resume latest continues from {saved[-1]}" if saved else "nothing is saved yet"
            self.accelerator.print(f"\ninterrupted after step {self.progress.step}; {continued}")
            raise

    def write_checkpoint(self, directory: Path) -> None:
        """Write the run's state to a directory, which is also one of a model, unless the weights are in shards."""
        self.state.save(directory)
        if self.accelerator.is_main_process and (directory / SAFE_WEIGHTS_NAME).is_file():
            with listing_fresh_weights(self.module):
                self.module.config.to_json_file(directory / CONFIG_NAME, use_diff=True)
            self.processor.to_json_file(directory / IMAGE_PROCESSOR_NAME)

    def take_step(self, batches: Sequence[TrainingBatch]) -> float:
        """Take one optimizer step; returns the norm of the gradients before clipping.

        Raises:
            FloatingPointError: if a loss or gradient is not finite; the weights are then unchanged.
        """
        # Labels are counted before the first backward pass: those of views that are made on the device, there.
        inputs = [each.features if self.views is None else self.on_device(each) for each in batches]
        shares = label_shares([each["labels"] for each in inputs], self.processor.task_specs, self.accelerator)
        for number, (each, share) in enumerate(zip(batches, shares)):
            batch = self.on_device(each) if self.views is None else inputs[number]
            inputs[number] = {}  # frees what was made of it, once it is used
            with self.accelerator.accumulate(self.model):
                model = self.module if self.weighting.writes_gradients else self.model
                outputs = model(
                    pixel_values=batch["pixel_values"], labels=batch["labels"], output_hidden_states=self.weighting.reads_features
                )
                self.note_losses(outputs.task_losses, share, each)
                self.weighting.backward(outputs.task_losses, outputs.hidden_states or (), self.accelerator, share)
                del outputs  # gradient methods keep part of its graph, which would stay in memory during the next batch
                if self.accelerator.sync_gradients:
                    self.forget_zero_gradients()
                    norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.arguments.max_grad_norm or math.inf))
                    self.check_finite({"gradient": norm}, batches)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:  # loss scaling skips a step whose half-precision gradients overflow
            self.schedule.step()
            if self.average is not None:
                self.average.update()
        return norm

    def on_device(self, batch: TrainingBatch) -> Mapping[str, Any]:
        """The batch's tensors on the device of the model, with its views if they are made there."""
        features = batch.features.to(self.accelerator.device)
        return features if self.views is None else self.views(features)

    def forget_zero_gradients(self) -> None:
        """Let the optimizer skip weights of tasks without labels, which it would decay; what other tasks use of them has a gradient."""
        for _, parameter in chain.from_iterable(map(self.module.task_parameters, self.untaught)):
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None

    def note_losses(self, task_losses: Mapping[str, Tensor], shares: Mapping[str, Tensor], batch: TrainingBatch) -> None:
        """Check the losses of a batch, and add them to the next log entry."""
        losses = dict(zip(task_losses, torch.stack([*task_losses.values()]).tolist()))
        self.check_finite(losses, [batch])
        known = dict(zip(shares, torch.stack([*shares.values()]).tolist())) if shares else {}
        self.progress.note_losses(losses, known)

    def check_finite(self, values: Mapping[str, float], batches: Sequence[TrainingBatch]) -> None:
        """Raise an error before a step that would corrupt the weights."""
        wrong = {name: value for name, value in values.items() if not math.isfinite(value)}
        if wrong and not (self.accelerator.scaler is not None and "gradient" in wrong):  # the scaler skips such steps itself
            raise FloatingPointError(
                f"step {self.progress.step + 1}: {', '.join(f'{name} is {value}' for name, value in wrong.items())}; samples of the batch: "
                f"{'; '.join(self.batches.describe(batches))}; {self._last_good()}; check these samples, or lower the learning rate"
            )

    def check_weights(self) -> None:
        """Raise an error before weights that the last step corrupted are evaluated or saved.

        Raises:
            FloatingPointError: if a weight, in any process, or its average is not finite.
        """
        named = dict(self.module.state_dict()) | ({} if self.average is None else self.average.state_dict())
        local = {name: value.to_local() if isinstance(value, DTensor) else value for name, value in named.items()}
        wrong = [name for name, value in local.items() if value.is_floating_point() and not torch.isfinite(value).all()]
        wrong = sorted({*gather_object(wrong)})
        if wrong:
            raise FloatingPointError(
                f"step {self.progress.step}: {len(wrong)} weight tensors, such as {wrong[0]}, are not finite after it; "
                f"{self._last_good()}; lower the learning rate"
            )

    def _last_good(self) -> str:
        found = list_checkpoints(self.checkpoints)
        return f"last good checkpoint: {found[-1] if found else 'none yet'}"

    def write_log(self, norm: float, seconds: float) -> dict[str, str]:
        """Write an entry with the mean losses since the last one; returns the values for the progress bar."""
        progress = self.progress
        losses = progress.take_mean_losses()
        seen = progress.step * self.arguments.gradient_accumulation_steps * self.arguments.batch_size * self.accelerator.num_processes
        entry = {
            "step": progress.step,
            "epoch": self.batches.epoch(seen),
            "learning_rate": self.schedule.get_last_lr()[-1],
            "gradient_norm": norm,
            "seconds_per_step": round(seconds, 4),
            **{f"loss/{task}": loss for task, loss in losses.items()},
            **{f"weight/{task}": weight for task, weight in self.weighting.weights.items()},
        }
        self.record(entry)
        return {task: f"{loss:.3g}" for task, loss in losses.items() if task not in self.kept}

    def record(self, entry: dict[str, Any]) -> None:
        """Write an entry to the log file and the trackers."""
        if self.accelerator.is_main_process:
            with describing_write_errors(self.log_file.path, self.checkpoints):
                self.log_file.append(entry)
        self.accelerator.log({key: value for key, value in entry.items() if key != "step"}, step=entry["step"])

    def evaluate(self) -> Measured:
        """Measure the model on the validation rows, and save it to `best/` if it is the best so far.

        Best is the highest multi-task gain over the constant baseline, in which every task has the same weight.
        """
        progress = self.progress
        with self.final_weights() as model:
            measured = self.validation.measure(model)
            metrics = {f"eval/{name}": value for name, value in measured.model.compute().items()}
            self.record({"step": progress.step, "gain_over_baseline": measured.gain, **metrics})
            if measured.gain > progress.best_gain:
                progress.best_gain, progress.best_step = measured.gain, progress.step
                save_model(self.accelerator, model, self.processor, self.arguments.output_dir / BEST, self.checkpoints)
        return measured

    @contextmanager
    def final_weights(self) -> Iterator[MulTForMultiTaskDensePrediction]:
        """The model to evaluate and save: unsharded, in evaluation mode, with averaged weights if there are any."""
        with nullcontext() if self.average is None else self.average.in_place():
            module = whole_model(self.accelerator, self.model).eval()
            share_statistics(self.accelerator, module)
            yield module
        self.model.train()


__all__ = ["TrainingLoop", "training_views"]
