"""Train MulT: build data, model and processor, and pass them to the package's training function.

    accelerate launch examples/train.py                                    # a small model on the shipped Rooms sample
    accelerate launch examples/train.py --config examples/configs/swin-unet.yaml --resume latest
    accelerate launch examples/train.py --dataset user/my-rooms --backbone microsoft/swin-tiny-patch4-window7-224

All flags of `mult-hf train` work. docs/training.md describes the contents of `--output_dir`. To change how a model is trained, start
from the loop in examples/train_loop.py.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:  # read once, when torch is loaded (docs/performance.md#threads)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from accelerate.utils import set_seed

from mult_hf.cli.arguments import parse_arguments
from mult_hf.cli.train import TrainFlags, provenance
from mult_hf.training.data import load_data
from mult_hf.training.fields import flag
from mult_hf.training.initialization import build_model, build_processor, specs_of_model, view_size
from mult_hf.training.run import train

ROOMS = Path(__file__).resolve().parent / "data/rooms-sample"


@dataclass
class Flags(TrainFlags):
    """The flags of `mult-hf train`; add your own here."""

    dataset: str = flag(str(ROOMS), "local directory or Hub id of a data set (docs/data.md)")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate, and save."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parse_arguments(Flags, argv, __doc__.split("\n")[0])

    # Data: rows with an image and one map per task; the data set's card describes the maps. --mix_with adds further data sets.
    data = load_data(flags, flags.seed, computed=flags.targets_of_views)

    # Model: trained (--model), with a pretrained encoder (--backbone), or with a new small Swin. Set the seed first: weights are random.
    size = view_size(data.sized_rows, flags.image_size, keep_aspect=flags.keep_aspect, model=flags.model)
    set_seed(flags.seed)
    model = build_model(flags, data.specs, max(size.values()), data.unlabelled)

    # Processor: converts images and maps to the model's inputs, and its outputs to maps.
    processor = build_processor(flags, specs_of_model(model, data.specs), size)

    origin = provenance(flags, ["accelerate", "launch", "examples/train.py", *argv])
    train(model, processor, data.training_rows, data.validation_rows, flags, origin, **data.options)


if __name__ == "__main__":
    main()
