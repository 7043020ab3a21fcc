"""Replica as rendered for the Omnidata starter set (Eftekhar et al., ICCV 2021): 18 scenes with Taskonomy's files and encodings.

Source: https://github.com/EPFL-VILAB/omnidata/tree/main/omnidata_tools/dataset. The classes of `segment_semantic` are Replica's
own, listed there in starter_dataset/component_datasets/replica/__init__.py, with 0 for undefined.

`mult-hf convert replica ROOT --split test` reads a whole split and reports problems.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from .taskonomy import TASKS as TASKONOMY_TASKS
from .taskonomy import TaskonomyReader

CLASS_NAMES = (
    "backpack", "base-cabinet", "basket", "bathtub", "beam", "beanbag", "bed", "bench", "bike", "bin", "blanket", "blinds",
    "book", "bottle", "box", "bowl", "camera", "cabinet", "candle", "chair", "chopping-board", "clock", "cloth", "clothing",
    "coaster", "comforter", "computer-keyboard", "cup", "cushion", "curtain", "ceiling", "cooktop", "countertop", "desk",
    "desk-organizer", "desktop-computer", "door", "exercise-ball", "faucet", "floor", "handbag", "hair-dryer", "handrail",
    "indoor-plant", "knife-block", "kitchen-utensil", "lamp", "laptop", "major-appliance", "mat", "microwave", "monitor",
    "mouse", "nightstand", "pan", "panel", "paper-towel", "phone", "picture", "pillar", "pillow", "pipe", "plant-stand",
    "plate", "pot", "rack", "refrigerator", "remote-control", "scarf", "sculpture", "shelf", "shoe", "shower-stall", "sink",
    "small-appliance", "sofa", "stair", "stool", "switch", "table", "table-runner", "tablet", "tissue-paper", "toilet",
    "toothbrush", "towel", "tv-screen", "tv-stand", "umbrella", "utensil-holder", "vase", "vent", "wall", "wall-cabinet",
    "wall-plug", "wardrobe", "window", "rug", "logo", "bag", "set-of-clothing",
)  # fmt: skip
"""Classes of Replica, starting at id 1."""

_OWN_VALUES = {"segmentation": {"class_names": list(CLASS_NAMES), "channels": len(CLASS_NAMES)}}

TASKS: list[dict[str, Any]] = [{**entry, **_OWN_VALUES.get(entry["name"], {})} for entry in TASKONOMY_TASKS]
"""Task entries of Replica: Taskonomy's, with Replica's own classes."""


class ReplicaReader(TaskonomyReader):
    """Replica (Omnidata) as samples of the schema.

    Args:
        root: directory of the download, in Taskonomy's layout with scenes in place of buildings.
        split: 10, 4 and 4 scenes; test is room_1, office_2, frl_apartment_4, frl_apartment_5.
        tasks: see [`BenchmarkReader`].
        on_error: see [`BenchmarkReader`].
    """

    name: ClassVar[str] = "Replica (Omnidata)"
    entries: ClassVar[list[dict[str, Any]]] = TASKS
    component: ClassVar[str] = "replica"

    def __init__(self, root: str | Path, split: str = "train", tasks: Sequence[str] | None = None, on_error: str = "raise") -> None:
        super().__init__(root, split, tasks, on_error, subset="fullplus")
