"""The command `python -m mult_hf.data.synthetic.rooms`."""

import argparse
import sys
from collections.abc import Sequence

from mult_hf.cli.arguments import program_name

from . import variants


def make_parser() -> argparse.ArgumentParser:
    """All flags with their defaults."""
    parser = argparse.ArgumentParser(
        prog=program_name("python -m mult_hf.data.synthetic.rooms"),
        description="Render procedural rooms with six dense maps into a directory that datasets.load_dataset reads.",
        epilog="An interrupted run goes on when the same command is given again; finished files are kept.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("output_dir", help="directory of the data set, made if it does not exist")
    parser.add_argument("--rooms", type=int, default=100, help="rooms in all splits together")
    parser.add_argument("--validation_rooms", type=int, default=argparse.SUPPRESS, help="of them, for validation (default: a tenth)")
    parser.add_argument("--test_rooms", type=int, default=argparse.SUPPRESS, help="of them, for testing (default: a tenth)")
    parser.add_argument("--views", type=int, default=6, help="pictures of each room")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels")
    parser.add_argument("--spp", type=int, default=8, help="light paths a pixel, before denoising")
    parser.add_argument("--seed", type=int, default=0, help="of the first room; the others follow by one")
    parser.add_argument("--num_proc", type=int, default=1, help="processes; one already uses every core")
    parser.add_argument("--rooms_per_shard", type=int, default=20, help="rooms in one file; an interruption loses at most one file's work")
    parser.add_argument("--variant", choices=variants.VARIANTS, default=variants.AUTO, help="of Mitsuba")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: of the command line, by default this process's.
    """
    options = make_parser().parse_args(arguments)
    # These load the renderer; `--help` should not.
    from .settings import RoomsSettings
    from .writing import write_dataset

    try:
        variant, library = variants.choose_variant(options.variant)
        print(f"rendering with {variant}" + (f" ({library})" if library else ""), file=sys.stderr)
        settings = RoomsSettings(
            rooms=options.rooms,
            validation_rooms=getattr(options, "validation_rooms", options.rooms // 10),
            test_rooms=getattr(options, "test_rooms", options.rooms // 10),
            views=options.views,
            size=options.size,
            samples_per_pixel=options.spp,
            seed=options.seed,
            rooms_per_shard=options.rooms_per_shard,
            variant=variant,
        )
        write_dataset(options.output_dir, settings, library, options.num_proc)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; give the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
