"""Train MulT on a multi-task data set, and evaluate it against the constant baseline.

mult-hf train --dataset my-rooms
mult-hf train --dataset my-rooms --config my-flags.yaml --resume latest
accelerate launch --num_processes 2 -m mult_hf train --dataset user/my-rooms --backbone microsoft/swin-tiny-patch4-window7-224
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

from accelerate.utils import set_seed

from mult_hf.data.row_errors import RowError
from mult_hf.data.schema import is_url
from mult_hf.evaluation.cards import public_name, shareable, training_data
from mult_hf.training.arguments import CHECKOUT, DataArguments, ModelArguments, TrainingArguments
from mult_hf.training.data import check_command, load_data
from mult_hf.training.distributed import print_once
from mult_hf.training.fields import flag
from mult_hf.training.initialization import build_model, build_processor, specs_of_model, view_size
from mult_hf.training.results import Provenance
from mult_hf.training.run import depends_on_focal_length, train
from mult_hf.training.weighting import OF_LOSSES

from .arguments import parse_arguments

DESCRIPTION = "Train MulT on a multi-task data set, and evaluate it against the constant baseline."

ROOMS_SAMPLE = CHECKOUT / "examples/data/rooms-sample"


@dataclass
class TrainFlags(TrainingArguments, ModelArguments, DataArguments):
    """All flags of `mult-hf train`."""

    HELP_GROUPS: ClassVar[dict[str, str]] = {"config": "configuration"}

    dataset: str | None = flag(
        str(ROOMS_SAMPLE) if ROOMS_SAMPLE.is_dir() else None,
        "local directory or Hub id of a data set (docs/data.md); in a checkout by default the Rooms sample",
    )
    config: Path | None = flag(None, "YAML or JSON file of flags; flags on the command line take precedence")

    def __post_init__(self) -> None:
        for part in (DataArguments, ModelArguments, TrainingArguments):
            part.__post_init__(self)
        if self.model is not None:
            model, output_dir = Path(self.model).resolve(), self.output_dir.resolve()
            conflict = None
            if self.only_new_tasks and model.is_relative_to(output_dir):
                conflict = "--only_new_tasks needs to resume it"
            elif self.overwrite and output_dir in model.parents:  # a checkpoint, for example; a model in output_dir itself is loaded before
                conflict = "--overwrite deletes it"
            if conflict is not None:
                raise ValueError(f"--model {self.model} is in --output_dir {self.output_dir}, and {conflict}; choose another --output_dir")
        if self.weighting not in OF_LOSSES and (self.only_new_tasks or self.encoder_learning_rate_factor == 0):
            frozen = "--only_new_tasks" if self.only_new_tasks else "--encoder_learning_rate_factor 0"
            raise ValueError(
                f"--weighting {self.weighting} balances the encoder's gradients, and {frozen} freezes it; choose {', '.join(OF_LOSSES)}"
            )


def provenance(flags: TrainFlags, command: Sequence[str]) -> Provenance:
    """Data, weights and command line for the model card, without paths of this machine."""
    return Provenance(
        dataset=" and ".join(map(public_name, [cast(str, flags.dataset), *flags.mix_with])) if flags.mix_with else cast(str, flags.dataset),
        train_split=flags.train_split,
        validation_split=flags.validation_split,
        start=shareable(flags.model or flags.backbone or "random weights", CHECKOUT),
        command=shareable(shlex.join(command), CHECKOUT),
        start_data=None if flags.model is None else training_data(flags.model) or f"the data of {public_name(flags.model)}",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Load data, processor and model according to the flags, and train.

    Args:
        argv: the flags; by default those of this process.
    """
    argv = sys.argv[1:] if argv is None else [*argv]
    flags = parse_arguments(TrainFlags, argv, DESCRIPTION, prog="mult-hf train")
    data = load_data(flags, flags.seed, computed=flags.targets_of_views)
    if flags.model is not None and not flags.only_new_tasks and flags.learning_rate == TrainFlags.learning_rate:
        print_once(
            f"--learning_rate is {flags.learning_rate:g}, the default for new models, at which trained ones forget; 1e-4 is usual for them"
        )
    size = view_size(data.sized_rows, flags.image_size, keep_aspect=flags.keep_aspect, model=flags.model)
    set_seed(flags.seed)  # before weights are initialized
    model = build_model(flags, data.specs, max(size.values()), data.unlabelled)
    processor = build_processor(flags, specs_of_model(model, data.specs), size)
    data = data.without_columns(processor.task_specs.keys() - data.specs.keys())  # tasks of --model that --tasks leaves out
    if data.without_focal_length and depends_on_focal_length(processor):
        print_once(
            f"no column focal_length in {', '.join(data.without_focal_length)}: for these rows, the focal length in each image's EXIF is "
            f"used, or else a field of view of {processor.assumed_field_of_view:g} degrees is assumed"
        )
    of_run = provenance(flags, ["mult-hf", "train", *argv])
    try:
        train(model, processor, data.training_rows, data.validation_rows, flags, of_run, **data.options)
    except RowError as error:
        names = [name for name in (cast(str, flags.dataset), *(flags.mix_with or [])) if not is_url(name)]
        others = f"; to find others: {', '.join(map(check_command, names))}" if names else ""
        found = [
            mistake for mistake in data.mistakes if any(f" {task}: " in f" {error}" and f" {task}: " in mistake for task in data.specs)
        ]
        of_all = f"; this may be so in all rows: {found[0]}" if found else ""
        raise RowError(f"{error}; repair it, store null for a map that is not known, or leave the row out{of_all}{others}") from error
    for mistake in data.mistakes:  # hours later, what was printed before the first step is far above
        print_once(f"check the data before you trust these results: {mistake}")


if __name__ == "__main__":
    main()
