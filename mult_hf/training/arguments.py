"""Arguments of a training run: data, model and training. Each field is a flag of `mult-hf train`."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mult_hf.evaluation.cards import shareable

from .fields import MAX_WORKERS, check_bounds, check_mutually_exclusive, flag, json_object
from .weighting import WEIGHTINGS, check_weighting_options

# Settings of a new Swin, which have no effect on a loaded encoder or model.
_NEW_SWIN = ("embed_dim", "depths", "window_size", "position_embeddings")

MAX_IMAGE_SIZE = 16_384
"""Largest side of training images in pixels, far beyond any memory; larger values are typing errors."""

MAX_MODEL_SIZE = 4_096
"""Largest numbers of channels, blocks per stage, and patches per window side of a new Swin; larger values are typing errors."""

CHECKOUT = Path(__file__).resolve().parents[2]
"""The directory that contains the package; in a checkout, the top level."""

FREE_TO_CHANGE = {
    *("config", "num_workers", "cpu_threads", "output_dir", "save_steps", "keep_checkpoints", "resume", "overwrite", "log_with"),
    *("panel_rows", "push_to_hub", "hub_private_repo", "eval_steps", "logging_steps"),
}
"""Arguments that may change when a run is resumed: they affect where it runs and what it writes, not what it learns."""


@dataclass
class DataArguments:
    """Rows, tasks and image size for training."""

    HELP_GROUPS: ClassVar[dict[str, str]] = {"dataset": "data"}

    dataset: str | None = flag(None, "local directory or Hub id of a data set (docs/data.md)")
    train_split: str = flag("train", "split to train on")
    validation_split: str = flag("validation", "split to evaluate on")
    mix_with: list[str] | None = flag(None, "further data sets to train on; tasks that one lacks are unknown there")
    mix_weights: list[float] | None = flag(None, "weights of --dataset and of each one of --mix_with; equal by default")
    tasks: list[str] | None = flag(None, "names of the tasks to train; by default all tasks of the data set")
    streaming: bool | None = flag(
        None,
        "read rows while training instead of storing all first; by default for URLs, WebDataset archives, and Parquet files that are "
        "larger than the free disk space",
        nargs="?",
        const=True,
    )
    validation_samples: int = flag(500, "rows of --validation_split that a run with --streaming reads at the start and evaluates on")
    image_size: int | None = flag(None, "side of training images in pixels; by default as stored")
    keep_aspect: bool = flag(False, "resize images so that their shorter side is --image_size, and train on square windows of them")

    def __post_init__(self) -> None:
        check_bounds(self, {32: ["image_size"], 1: ["validation_samples"]}, {MAX_IMAGE_SIZE: ["image_size"]})
        if self.keep_aspect and self.image_size is None:
            raise ValueError(f"--keep_aspect needs --image_size, which is {self.image_size}; give the length of the shorter side in pixels")
        if self.mix_weights is not None and len(self.mix_weights) != 1 + len(self.mix_with or []):
            raise ValueError(
                f"--mix_weights has {len(self.mix_weights)} weights for --dataset and {len(self.mix_with or [])} data sets of --mix_with; "
                "give one per data set"
            )
        if wrong := [weight for weight in self.mix_weights or [] if not 0 < weight < math.inf]:
            raise ValueError(f"--mix_weights has {wrong}; give finite weights above 0, and leave a data set out by removing it")
        named = [self.dataset, *(self.mix_with or [])]
        if len(set(named)) < len(named):
            raise ValueError(f"--mix_with {' '.join(self.mix_with or [])} names a data set twice, or that of --dataset; give each one once")
        if self.dataset is None:
            raise ValueError(
                "--dataset is missing; give a local directory or Hub id of a data set whose card lists its tasks (docs/data.md)"
            )


@dataclass
class ModelArguments:
    """The initial model: a trained one, a new one with a pretrained encoder, or a new one with a new small Swin."""

    HELP_GROUPS: ClassVar[dict[str, str]] = {"model": "model"}

    model: str | None = flag(
        None, "directory or Hub id of a trained MulT to start from, without its tasks that the data lack; a new model by default"
    )
    only_new_tasks: bool = flag(
        False, "with --model, train only tasks of the data's card that it lacks; everything else is kept, and frozen (docs/own-task.md)"
    )
    backbone: str | None = flag(None, "directory, Hub id or timm name of a pretrained encoder; by default a new small Swin")
    embed_dim: int = flag(24, "channels of a new Swin's first stage")
    depths: list[int] = flag([2, 2, 2, 2], "blocks per stage of a new Swin")
    window_size: int = flag(8, "side of a new Swin's windows, in patches of 4 pixels")
    position_embeddings: bool = flag(True, "absolute position embeddings in a new Swin")
    decoder: str = flag("swin_unet", "kind of decoder: swin_unet, mult (the paper's) or mtan")
    block_attention: list[str] | None = flag(
        None, "kinds of the blocks of a decoder stage; by default self encoder, or with --decoder mult self+skip encoder+skip"
    )
    decoder_num_attention_heads: list[int] | None = flag(
        None, "heads of the decoder per stage, coarsest first; by default the encoder's, or one per 32 channels"
    )
    decoder_window_size: int | None = flag(None, "side of the decoder's windows, in its tokens; by default the encoder's, or 7")
    mlp_ratio: float | None = flag(None, "hidden width of a decoder's MLP over its input width; 4 by default")
    reference_task: str | None = flag(None, "task that computes the shared attention; normals by default")
    canonical_focal_length: float | None = flag(
        None, "learn depth for one camera of this focal length, in pixels of the model's input, and use each row's focal_length"
    )
    drop_path_rate: float = flag(0.0, "stochastic depth of a new Swin and of the decoders")

    def __post_init__(self) -> None:
        sizes = ["embed_dim", "depths", "window_size"]
        check_bounds(self, {0: ["drop_path_rate"], 1: sizes}, {MAX_MODEL_SIZE: sizes})
        if not self.drop_path_rate < 1:
            raise ValueError(f"--drop_path_rate is {self.drop_path_rate}; it must be at least 0 and below 1")
        check_bounds(self, {0.1: ["mlp_ratio"], 1: ["decoder_num_attention_heads", "decoder_window_size", "canonical_focal_length"]})
        of_a_decoder = ("block_attention", "decoder_num_attention_heads", "decoder_window_size", "mlp_ratio", "reference_task")
        of_a_new_model = ("decoder", *of_a_decoder, "drop_path_rate")
        check_mutually_exclusive(self, "model", ("backbone", *_NEW_SWIN, *of_a_new_model))
        check_mutually_exclusive(self, "backbone", _NEW_SWIN)
        if self.only_new_tasks and self.model is None:
            raise ValueError("--only_new_tasks is given without --model; a new model has new tasks only")


@dataclass
class TrainingArguments:
    """Settings of [`train`][mult_hf.training.run.train]: views, optimization, execution and results."""

    HELP_GROUPS: ClassVar[dict[str, str]] = {
        "max_zoom": "views",
        "max_steps": "optimization",
        "mixed_precision": "execution",
        "output_dir": "results",
    }

    # Views
    max_zoom: float = flag(1.15, "training views are magnified by a factor between 1 and this value, and cropped")
    min_zoom: float = flag(1.0, "lowest magnification; below 1, windows may reach beyond the image, where labels are unknown")
    rotation: float = flag(0.0, "training views are rotated by up to this many degrees")
    color_jitter: float = flag(0.2, "brightness, contrast and saturation change by up to this fraction")
    hue: float = flag(0.0, "hues turn by up to this share of the colour circle")
    white_balance: float = flag(0.0, "red and blue are scaled by factors of up to 1 plus this, or divided by them")
    gamma: float = flag(0.0, "tones are curved by exponents of up to 1 plus this, or its inverse")
    blur: float = flag(0.0, "half of the views are blurred with a sigma of up to this many pixels")
    noise: float = flag(0.0, "half of the views get noise with a standard deviation of up to this, in [0, 1]")
    jpeg: float = flag(0.0, "share of the views that are compressed as JPEG of quality 30 to 90")
    targets_of_views: list[str] | None = flag(None, "tasks whose targets are computed from each view, such as edges2d keypoints2d")
    targets_of_views_share: float = flag(1.0, "share of the views for which they are computed; below 1 it saves time")
    views_on_device: bool = flag(False, "make the views of a batch on the device that trains, instead of each one in the loader")
    num_workers: int = flag(0, "worker processes that prepare batches")
    shuffle_window: int = flag(256, "rows that each worker reads and shuffles at a time, with --streaming")
    # Optimization
    max_steps: int = flag(600, "optimizer steps")
    batch_size: int = flag(8, "images per step and process")
    gradient_accumulation_steps: int = flag(1, "batches whose gradients are averaged before a step")
    learning_rate: float = flag(4e-3, "largest learning rate, after the warm-up")
    encoder_learning_rate_factor: float = flag(1.0, "the encoder's learning rate, relative to that of decoders and heads")
    schedule: Literal["cosine", "polynomial", "linear", "constant_with_warmup"] = flag("cosine", "learning-rate schedule")
    schedule_power: float = flag(0.9, "exponent of the polynomial schedule")
    warmup_steps: int = flag(30, "steps of linear warm-up; at most half of all steps")
    weight_decay: float = flag(0.05, "AdamW's weight decay, on weight matrices only")
    max_grad_norm: float = flag(5.0, "gradients are clipped to this norm; 0 for no clipping")
    ema_decay: float = flag(0.0, "evaluate and save a moving average of the weights with this decay; 0 for none")
    weighting: str = flag("fixed", f"how task losses are balanced: {', '.join(WEIGHTINGS)}")
    weighting_options: str = flag("{}", "JSON object with options of the weighting; see docs/weighting.md")
    seed: int = flag(0, "seed of weights, order and augmentation")
    # Execution
    mixed_precision: Literal["no", "bf16", "fp16"] | None = flag(None, "precision of training; by default that of `accelerate config`")
    torch_compile: str | None = flag(None, "backend of torch.compile, such as inductor; no compilation by default")
    float32_matmul: Literal["highest", "high", "medium"] = flag(
        "highest",
        "precision inside float32 matrix products; medium allows bfloat16 on CPUs with such units, high allows TF32 on GPUs",
    )
    cpu_threads: int | None = flag(
        None, "threads per process without accelerator; by default the available CPU cores, shared between processes"
    )
    # Results
    output_dir: Path = flag(Path("outputs/mult-rooms"), "where everything is written")
    eval_steps: int | None = flag(None, "steps between evaluations; only at the end by default")
    save_steps: int = flag(50, "steps between checkpoints")
    keep_checkpoints: int = flag(2, "number of checkpoints to keep")
    resume: str | None = flag(None, "checkpoint to resume from: its directory, or latest, which starts from scratch if there is none")
    overwrite: bool = flag(False, "replace a model or an earlier run in --output_dir, and delete its checkpoints/ and best/")
    logging_steps: int = flag(10, "steps between entries of log.jsonl and of the trackers")
    log_with: list[str] | None = flag(None, "trackers of Accelerate: tensorboard, trackio, wandb, ...; log.jsonl is always written")
    panel_rows: int = flag(4, "validation images in panel.png")
    push_to_hub: str | None = flag(None, "id of the Hub repository to upload the result to")
    hub_private_repo: bool = flag(False, "with --push_to_hub: the repository must be private, and is created so")

    def __post_init__(self) -> None:
        self.output_dir = Path(self.output_dir)  # a program may give text
        at_least_0 = ["num_workers", "warmup_steps", "learning_rate", "encoder_learning_rate_factor", "weight_decay", "max_grad_norm"]
        at_least_1 = ["max_steps", "batch_size", "gradient_accumulation_steps", "eval_steps", "save_steps", "keep_checkpoints"]
        at_least_0 += ["ema_decay", "color_jitter", "schedule_power", "seed"]
        at_least_1 += ["shuffle_window", "logging_steps", "max_zoom", "panel_rows", "cpu_threads"]
        shares = ["color_jitter", "jpeg", "targets_of_views_share"]
        at_least_0 += [*shares[1:], "rotation", "hue", "white_balance", "gamma", "blur", "noise"]
        at_most: dict[float, list[str]] = {0.5: ["hue"], 1: [*shares, "min_zoom"], 180: ["rotation"]}
        at_most |= {MAX_WORKERS: ["num_workers"], 2**32 - 1: ["seed"]}
        check_bounds(self, {0: at_least_0, 0.1: ["min_zoom"], 1: at_least_1}, at_most)
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"--weighting is {self.weighting!r}; allowed: {', '.join(WEIGHTINGS)}")
        check_weighting_options(self.weighting, json_object("weighting_options", self.weighting_options))
        if self.resume is not None and self.overwrite:
            raise ValueError(f"--resume {self.resume} goes on with the run that --overwrite deletes; give one of them")
        if self.hub_private_repo and self.push_to_hub is None:
            raise ValueError("--hub_private_repo is for --push_to_hub, which is missing; add it, or leave this flag out")
        if not self.ema_decay < 1:
            raise ValueError(f"--ema_decay is {self.ema_decay}; it must be at least 0 and below 1")


def as_text(arguments: TrainingArguments) -> dict[str, str]:
    """All settings as text for `metrics.json`, trackers and checkpoints, without paths of this machine."""
    return {name: shareable(str(value), CHECKOUT) for name, value in asdict(arguments).items()}


__all__ = ["CHECKOUT", "FREE_TO_CHANGE", "DataArguments", "ModelArguments", "TrainingArguments", "as_text"]
