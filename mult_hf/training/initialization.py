"""Initial model of a run (new with a small Swin or a pretrained encoder, or trained) and its image size."""

import copy
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from torch import Tensor, nn
from transformers.models.swin.modeling_swin import SwinEmbeddings

from mult_hf.evaluation.compatibility import check_compatible, range_text
from mult_hf.inference.loading import load_processor, load_whole_model
from mult_hf.model.alignment import upright_size
from mult_hf.model.configuration_mult import MulTConfig
from mult_hf.model.entry_fields import refusal
from mult_hf.model.heads import MulTHeads
from mult_hf.model.image_processing_mult import MulTImageProcessor
from mult_hf.model.images import open_image
from mult_hf.model.modeling_mult import MulTForMultiTaskDensePrediction
from mult_hf.model.tasks import TaskSpec
from mult_hf.model.weights import copy_fresh_weights, fresh_weights, task_of_weight

from .arguments import ModelArguments
from .distributed import print_once

SIZE_STEP = 32
"""Heights and widths chosen here are multiples of this: the encoder's largest stride in pixels."""

DEFAULT_BLOCKS = {"swin_unet": ["self", "encoder"], "mult": ["self+skip", "encoder+skip"]}
"""Blocks of a decoder stage by kind of decoder. In "mult" the encoder's map also enters the values, because the paper's blocks train badly
without it (docs/evidence.md)."""


def build_model(
    arguments: ModelArguments, specs: Mapping[str, TaskSpec], image_size: int, unlabelled: Collection[str] = ()
) -> MulTForMultiTaskDensePrediction:
    """Build the initial model: a trained one, a new one with a pretrained encoder, or a new one with a new Swin.

    Args:
        arguments: the model's arguments.
        specs: the task entries by name.
        image_size: side of the images in pixels, for a new Swin's position embeddings.
        unlabelled: tasks without labels; they are left out, unless the trained model has them.

    Raises:
        ValueError: if a trained model has a task of the same name with another meaning, of which only the classes may differ, or has
            every task although only new ones are to be trained.
    """
    if arguments.model is not None:
        load = load_with_new_tasks if arguments.only_new_tasks else load_trained
        return load(arguments.model, specs, unlabelled)
    specs = without_unlabelled(specs, unlabelled)
    decoder: dict[str, Any] = {
        "tasks": list(specs.values()),
        "reference_task": arguments.reference_task,
        "decoder_type": arguments.decoder,
        "block_attention": arguments.block_attention or DEFAULT_BLOCKS.get(arguments.decoder),
        "decoder_num_attention_heads": arguments.decoder_num_attention_heads,
        "decoder_window_size": arguments.decoder_window_size,
        "drop_path_rate": arguments.drop_path_rate,
    }
    if arguments.mlp_ratio is not None:
        decoder["mlp_ratio"] = arguments.mlp_ratio
    if arguments.backbone is not None:
        return MulTForMultiTaskDensePrediction.from_backbone(arguments.backbone, **decoder)
    swin = new_swin(
        arguments.embed_dim, arguments.depths, arguments.window_size, image_size, arguments.position_embeddings, arguments.drop_path_rate
    )
    model = MulTForMultiTaskDensePrediction(MulTConfig(backbone_config=swin, **decoder))
    init_sincos_position_embeddings(model)
    return model


def build_processor(arguments: ModelArguments, specs: Mapping[str, TaskSpec], size: Mapping[str, int]) -> MulTImageProcessor:
    """The processor of the model that the arguments name.

    Images are normalised as those of the trained model or of the pretrained encoder were. A trained model also keeps its canonical camera.

    Args:
        arguments: of the model.
        specs: the task entries by name.
        size: height and width of the images, or their `shortest_edge`.

    Raises:
        ValueError: if a trained model's depth is that of another canonical camera than the arguments'.
    """
    settings: dict[str, Any] = {"size": dict(size), "tasks": list(specs.values())}
    if arguments.model is not None:
        return trained_processor(arguments.model, arguments.canonical_focal_length, **settings)
    settings["canonical_focal_length"] = arguments.canonical_focal_length
    if arguments.backbone is not None:
        return MulTImageProcessor.from_backbone(arguments.backbone, **settings)
    return MulTImageProcessor(**settings)


def view_size(rows: Dataset, side: int | None = None, *, keep_aspect: bool = False, model: str | None = None) -> dict[str, int]:
    """Height and width of training images, or their shortest edge, as a `size` of the image processor.

    A trained model keeps its size, which is printed. Without one, if all images have the same size, it is kept. Otherwise all are resized
    to the median height and the median width, rounded to multiples of 32, and the size is printed.

    Args:
        rows: rows of the data set.
        side: side of square images in pixels; by default the size is the model's, or is read from the images' headers.
        keep_aspect: whether `side` is that of the shorter side of images that keep their aspect ratio.
        model: directory or Hub id of the trained model that training starts from, if any.

    Raises:
        ValueError: if there are no rows, or no column `image`, or a row has no readable image.
    """
    if "image" not in rows.column_names or len(rows) == 0:
        raise refusal(f"got {len(rows)} rows with the columns {rows.column_names}; expected at least one row and a column 'image'")
    if side is not None:
        return {"shortest_edge": side} if keep_aspect else {"height": side, "width": side}
    if model is not None and (size := _size_of_trained(model)):
        sides = " and ".join(f"{name.replace('_', ' ')} {length}" for name, length in size.items())
        print_once(f"images are resized as for {model}: {sides} pixels; --image_size sets another size")
        return size
    sizes = stored_sizes(rows)
    (height, width), *others = sorted(set(sizes))
    if others:
        heights, widths = zip(*sizes)
        height, width = (max(SIZE_STEP, round(statistics.median(sides) / SIZE_STEP) * SIZE_STEP) for sides in (heights, widths))
        print_once(
            f"the training images have {len(others) + 1} sizes, from {min(heights)} to {max(heights)} pixels high and {min(widths)} to "
            f"{max(widths)} wide: all are resized to {height} x {width} (median height x width); --image_size sets another size"
        )
    return {"height": height, "width": width}


def _size_of_trained(name_or_path: str) -> dict[str, int]:
    """The size of a trained model's processor; empty if it does not resize, or in a way that training lacks."""
    processor = load_processor(name_or_path)
    size = {name: length for name, length in dict(processor.size).items() if length}
    return size if processor.do_resize and set(size) in ({"height", "width"}, {"shortest_edge"}) else {}


def stored_sizes(rows: Dataset) -> list[tuple[int, int]]:
    """(height, width) of each row's upright image in pixels; only headers are decoded.

    Raises:
        ValueError: if a row has no readable image.
    """
    encoded = rows.select_columns("image").cast_column("image", ImageFeature(decode=False))
    return [_stored_size(row["image"], number) for number, row in enumerate(encoded)]


def _stored_size(cell: dict[str, Any] | None, number: int) -> tuple[int, int]:
    if cell is None:
        raise ValueError(f"row {number} has no image; every training row needs one")
    try:
        with open_image(cell["path"] if cell["bytes"] is None else BytesIO(cell["bytes"])) as image:
            return upright_size(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"training data, row {number}: its image {cell['path'] or ''} cannot be read: {error}") from error


def init_sincos_position_embeddings(model: MulTForMultiTaskDensePrediction) -> None:
    """Initialize a new Swin's position embeddings, if it has any, with sines and cosines instead of zeros.

    Starting from zeros, a small network trained with L1 on few images never learns which walls face left. Without a feature that
    separates left from right, the best weights of the head for the normals' x are zero; and with zero weights, no gradient separates
    the features. Sine-cosine embeddings (Vaswani et al., arXiv 1706.03762, section 3.5, along each axis) give every block the column
    from the first step. They are trained like other weights.
    """
    for embeddings in (module for module in model.modules() if isinstance(module, SwinEmbeddings)):
        if embeddings.position_embeddings is not None:
            with torch.no_grad():
                embeddings.position_embeddings.copy_(sincos_position_embedding(*embeddings.patch_grid, embeddings.config.embed_dim))


def sincos_position_embedding(height: int, width: int, channels: int) -> Tensor:
    """Sines and cosines of row and column, shape (1, height * width, channels), within [-1, 1].

    The longest period is twice the image, so that its cosine falls monotonically from one side to the other; each further period is
    shorter by a factor of the square root of 2. Sines and cosines of rows and columns each take a quarter of the channels; up to
    three remaining channels are 0.
    """
    rates = torch.pi * 2 ** (torch.arange(channels // 4) / 2)
    rows, columns = (((torch.arange(side) + 0.5) / side)[:, None] * rates for side in (height, width))  # (side, channels / 4)
    rows, columns = rows[:, None].expand(height, width, -1), columns[None].expand(height, width, -1)
    found = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1)  # (height, width, channels)
    return nn.functional.pad(found, (0, channels - found.shape[-1])).flatten(0, 1)[None]


def new_swin(
    embed_dim: int, depths: Sequence[int], window_size: int, image_size: int, position_embeddings: bool, drop_path_rate: float
) -> dict[str, Any]:
    """The `backbone_config` of a new Swin for [`MulTConfig`], with one head per 24 channels of its first stage.

    Args:
        embed_dim: channels of the first stage.
        depths: blocks per stage.
        window_size: side of a window, in patches of 4 pixels.
        image_size: side of the images in pixels, for position embeddings.
        position_embeddings: whether to use absolute position embeddings. They help on few images, for example because floors and
            ceilings have typical positions.
        drop_path_rate: rate of stochastic depth.
    """
    stages = range(len(depths))
    return {
        "model_type": "swin",
        "embed_dim": embed_dim,
        "depths": [*depths],
        "num_heads": [max(1, embed_dim // 24) * 2**stage for stage in stages],
        "window_size": window_size,
        "drop_path_rate": drop_path_rate,
        "use_absolute_embeddings": position_embeddings,
        "image_size": image_size,
        "out_features": [f"stage{stage + 1}" for stage in stages],
    }


def trained_processor(name_or_path: str, canonical_focal_length: float | None = None, **settings: Any) -> MulTImageProcessor:
    """The processor of a trained model with other settings. Images are resized, and ids of classes are those of the entries.

    Args:
        name_or_path: Hub id or directory of the model.
        canonical_focal_length: that of the canonical camera which the checkpoint must have; None for whatever it has.
        **settings: of [`MulTImageProcessor`], in place of the checkpoint's.

    Raises:
        ValueError: if the checkpoint has another canonical camera.
        OSError: if the checkpoint has no processor.
    """
    processor = load_processor(name_or_path, **settings, do_resize=True, do_reduce_labels=False)
    own = processor.canonical_focal_length
    if canonical_focal_length not in (None, own):
        raise refusal(
            f"--canonical_focal_length is {canonical_focal_length:g}, but {name_or_path} "
            + ("learnt depth without one" if own is None else f"learnt depth for {own:g}")
            + "; leave the flag out, or train a new model"
        )
    return processor


def load_trained(name_or_path: str, specs: Mapping[str, TaskSpec], unlabelled: Collection[str] = ()) -> MulTForMultiTaskDensePrediction:
    """Load a trained model and adapt it to the data's tasks: missing ones are added, and tasks that the data lack are removed.

    A classification task with different classes keeps its decoder and gets a new head. If the data lack the reference task of shared
    attention, another task takes over its projections. Tasks are learnt with the loss and the weight of the data's entries, but a head
    keeps its activation and range. These changes are printed, and a range other than the data's. Tasks without labels keep their decoder,
    and are not added.

    Args:
        name_or_path: of the model.
        specs: the task entries by name.
        unlabelled: those without labels.

    Raises:
        ValueError: if a shared task has another kind, unit or axes in the data, or the model's weights are missing or not finite.
    """
    model = load_whole_model(name_or_path, to_train=True)
    model = model.float()  # half-precision weights lose small updates, and AdamW divides by 0 in them
    specs = without_unlabelled(specs, [task for task in unlabelled if task not in model.config.task_specs])
    for task, spec in specs.items():
        own = model.config.task_specs.get(task)
        if own is None:
            model.add_task(spec)
            print_once(f"{task}: {name_or_path} has no such task; its decoder and head start from random weights")
        elif have_other_classes(own, spec):
            replace_head(model, spec)
            print_once(
                f"{task}: {name_or_path} has {own.channels} classes and the data {spec.channels} different ones; its decoder is kept, "
                "and its head starts from random weights"
            )
        else:
            check_compatible(own, spec)
            _learn_as_in(model, spec, name_or_path)
    reference = model.config.reference_task
    if model.shares_attention and reference not in specs:
        heir = next(task for task in model.task_names if task in specs)
        model = hand_over_reference(model, heir)
        print_once(
            f"the data have no {reference}, which computes the shared attention of {name_or_path}; {heir} takes over its projections"
        )
    removed = [task for task in model.task_names if task not in specs]
    for task in removed:
        model.remove_task(task)
    if removed:
        print_once(f"the data have no {', '.join(removed)}: removed from the copy of {name_or_path} that is trained")
    return model


def load_with_new_tasks(
    name_or_path: str, specs: Mapping[str, TaskSpec], unlabelled: Collection[str] = ()
) -> MulTForMultiTaskDensePrediction:
    """Load a trained model, add the tasks that it lacks, and freeze everything else, so that its own tasks predict as before.

    Tasks that it has, but that were never trained, count as new.

    Args:
        name_or_path: of the model.
        specs: the task entries of the data by name.
        unlabelled: those without labels, which are not added.

    Raises:
        ValueError: if the model has every task with labels, a shared task has another kind, unit, axes or classes in the data, or the
            model's weights are missing or not finite.
    """
    model = load_whole_model(name_or_path, to_train=True).float()
    own = model.config.task_specs
    for task in specs.keys() & own.keys():
        if have_other_classes(own[task], specs[task]):
            raise refusal(
                f"{task}: {name_or_path} has {own[task].channels} classes and the data {specs[task].channels} different ones, and "
                f"--only_new_tasks keeps its head; name other tasks by --tasks, or leave out --only_new_tasks"
            )
        check_compatible(own[task], specs[task])
    untrained = {task_of_weight(name) for name in fresh_weights(model, new=True)}
    wanted = {task: spec for task, spec in specs.items() if task not in own or task in untrained}
    new = without_unlabelled(wanted, [task for task in wanted if task in unlabelled])
    if not new:
        labelled = ", ".join(task for task in specs if task not in unlabelled)
        raise refusal(
            f"{name_or_path} has all tasks of the data, {labelled}; leave out --only_new_tasks, or add a task to the data "
            "(without the flag everything is trained, and tasks that the data lack are removed)"
        )
    model.requires_grad_(False)
    for task, spec in new.items():
        if task not in own:
            model.add_task(spec)
        for _, parameter in model.task_parameters(task):  # also of a task that was added before, and never trained
            parameter.requires_grad_(True)
    own = {task: spec for task, spec in own.items() if task not in new}
    what = f"{', '.join(new)} {'is' if len(new) == 1 else 'are'}"
    print_once(f"only {what} trained, from random weights; {', '.join(own)}, and the encoder, stay as in {name_or_path}")
    return model


def _learn_as_in(model: MulTForMultiTaskDensePrediction, spec: TaskSpec, name_or_path: str) -> None:
    """Replace the loss and the weight of a task by those of the data's entry: only together do they have a meaning."""
    own = model.config.task_specs[spec.name]
    entry = replace(own, loss=spec.loss, weight=spec.weight)
    model.heads.tasks[spec.name].spec = entry
    model.config.tasks = [entry.to_dict() if each["name"] == spec.name else each for each in model.config.task_entries]
    if entry.loss != own.loss:
        print_once(f"{spec.name}: {name_or_path} was trained with the loss {own.loss}; the data's entry has {spec.loss}, which is used")
    if own.final_range != spec.final_range:
        print_once(
            f"{spec.name}: {name_or_path} has the range {range_text(own)} and the data {range_text(spec)}; its head keeps its own, so "
            "values beyond it are not learnt; for the data's range, train a new model"
        )


def without_unlabelled(specs: Mapping[str, TaskSpec], unlabelled: Collection[str]) -> dict[str, TaskSpec]:
    """The entries of the tasks with labels, and a line about the others."""
    if unlabelled:
        print_once(f"the training data has no column {' or '.join(unlabelled)}: left out of the model")
    return {task: spec for task, spec in specs.items() if task not in unlabelled}


def specs_of_model(model: MulTForMultiTaskDensePrediction, specs: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """Entries for the processor of a model: those of the data, with the activations, ranges and losses that the model's heads have.

    Args:
        model: the model; its tasks that the data lack keep their own entries.
        specs: the data's entries by name.
    """
    return {
        task: replace(specs[task], activation=own.activation, value_range=own.value_range, loss=own.loss) if task in specs else own
        for task, own in model.config.task_specs.items()
    }


def hand_over_reference(model: MulTForMultiTaskDensePrediction, task: str) -> MulTForMultiTaskDensePrediction:
    """Rebuild a model with another reference task, which takes over the projections of the current one.

    Args:
        model: a model with or without shared attention.
        task: one of its tasks.
    """
    config, weights = copy.deepcopy(model.config), model.state_dict()
    config.reference_task = task
    other = MulTForMultiTaskDensePrediction(config).to(model.device, model.dtype).train(model.training)
    of_reference = {name: name.replace(f".{task}.", f".{model.config.reference_task}.") for name in other.state_dict()}
    other.load_state_dict({name: weights[name if name in weights else source] for name, source in of_reference.items()})
    copy_fresh_weights(model, other)
    return other


def have_other_classes(own: TaskSpec, other: TaskSpec) -> bool:
    """Whether two entries of the same name are both classifications, but with different classes."""
    return own.is_classification and other.is_classification and (own.channels, own.class_names) != (other.channels, other.class_names)


@torch.no_grad()
def replace_head(model: MulTForMultiTaskDensePrediction, spec: TaskSpec) -> None:
    """Replace a task's entry and head in a model; all other weights are kept.

    Args:
        model: a model with a task of this name.
        spec: its new entry.
    """
    old = model.heads.tasks[spec.name].projection
    head = MulTHeads(old.in_features, {spec.name: spec}).tasks[spec.name]
    head.apply(model._init_weights)
    model.heads.tasks[spec.name] = head.to(model.device, model.dtype).train(model.training)
    model.config.tasks = [spec.to_dict() if entry["name"] == spec.name else entry for entry in model.config.task_entries]


__all__ = [
    "DEFAULT_BLOCKS",
    "SIZE_STEP",
    "build_model",
    "build_processor",
    "hand_over_reference",
    "have_other_classes",
    "init_sincos_position_embeddings",
    "load_trained",
    "load_with_new_tasks",
    "new_swin",
    "replace_head",
    "sincos_position_embedding",
    "specs_of_model",
    "stored_sizes",
    "trained_processor",
    "view_size",
]
