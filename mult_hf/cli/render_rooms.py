"""Render procedural rooms with six dense maps into a directory that `datasets.load_dataset` reads.

    mult-hf render rooms OUT --rooms 100 --views 6
    mult-hf render rooms OUT --rooms 10000 --num_proc 64 --engine ray --ray_address auto

To continue an interrupted run, repeat the command; finished files are kept.
"""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mult_hf.data.cores import available_cores
from mult_hf.data.ray_cluster import Cluster, ray_cluster
from mult_hf.data.synthetic.rooms import variants
from mult_hf.data.synthetic.rooms.varied.groups import GROUPS
from mult_hf.inference.directory_lock import exclusive_run

from .arguments import flag, parse_arguments, positional
from .errors import CommandError


@dataclass
class RoomsArguments:
    """Settings of the rendering; each field is an argument."""

    output_dir: Path = positional("directory of the data set, created if it does not exist")
    rooms: int = flag(100, "total number of rooms in all splits")
    validation_rooms: int | None = flag(None, "rooms of the validation split; a tenth by default")
    test_rooms: int | None = flag(None, "rooms of the test split; a tenth by default")
    views: int = flag(6, "images per room")
    size: int | None = flag(None, "height and width in pixels; by default 128, and 256 for scenes 2")
    spp: int = flag(8, "light paths per pixel, before denoising")
    seed: int = flag(0, "seed of the first room; the following rooms have consecutive seeds")
    num_proc: int = flag(1, "number of processes; one already uses every core")
    engine: str = flag("processes", "processes: on this machine; ray: --num_proc processes on a Ray cluster", choices=("processes", "ray"))
    ray_address: str | None = flag(None, "address of the Ray cluster, such as auto; by default one is started on this machine")
    rooms_per_shard: int = flag(20, "rooms per file; an interruption loses at most one file's work")
    scenes: int = flag(1, "version of the scenes: 1, clean rooms seen from eye height, or 2, varied rooms", choices=(1, 2))
    without: list[str] = flag([], "groups that do not vary in scenes 2, for comparisons", choices=tuple(GROUPS))
    variant: str = flag(variants.AUTO, "variant of Mitsuba", choices=variants.VARIANTS)


def _cluster(arguments: RoomsArguments) -> AbstractContextManager[Cluster | None]:
    """The cluster to render on, or None for this machine."""
    if arguments.engine != "ray":
        return nullcontext()
    return ray_cluster(arguments.ray_address, available_cores(), "--engine ray")


def main(argv: Sequence[str] | None = None) -> int:
    """Render the data set; returns 130 after an interrupt.

    Args:
        argv: the command line; by default that of this process.

    Raises:
        ValueError: on numbers that cannot be rendered, a directory of other settings, or one that another run is writing to.
        CommandError: if no variant of Mitsuba runs.
        ImportError: if Ray is asked for and not installed.
    """
    argv = sys.argv[1:] if argv is None else argv
    arguments = parse_arguments(RoomsArguments, argv, __doc__.split("\n")[0], prog="mult-hf render rooms")
    # These imports load the renderer, which `--help` does not need.
    from mult_hf.data.synthetic.rooms.settings import RoomsSettings
    from mult_hf.data.synthetic.rooms.writing import write_dataset

    try:
        variant, library = variants.choose_variant(arguments.variant)
        print(f"rendering with {variant}" + (f" ({library})" if library else ""), file=sys.stderr)
        a_tenth = arguments.rooms // 10
        settings = RoomsSettings(
            rooms=arguments.rooms,
            validation_rooms=a_tenth if arguments.validation_rooms is None else arguments.validation_rooms,
            test_rooms=a_tenth if arguments.test_rooms is None else arguments.test_rooms,
            views=arguments.views,
            size=(128 if arguments.scenes == 1 else 256) if arguments.size is None else arguments.size,
            samples_per_pixel=arguments.spp,
            seed=arguments.seed,
            rooms_per_shard=arguments.rooms_per_shard,
            scenes=arguments.scenes,
            without=tuple(arguments.without),
            variant=variant,
        )
        with exclusive_run(arguments.output_dir), _cluster(arguments) as cluster:
            write_dataset(arguments.output_dir, settings, library, arguments.num_proc, cluster)
    except RuntimeError as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        print("interrupted; repeat the command to continue", file=sys.stderr)
        return 130
    return 0
