"""What the card of a data set says of varied rooms; columns and encodings are described with those of the first version."""

from .groups import GROUPS

INTRODUCTION = """\
# Rooms, second version of the scenes

Procedural indoor scenes (offices, kitchens, living rooms, bedrooms, dining rooms, studies) with six dense maps, {size} x {size} pixels,
made to prepare for photographs and rendered with Mitsuba 3 ({samples} samples per pixel, denoised, variant `{variant}`) by

    {command}

| split | rooms | views | seeds of the rooms |
|---|---|---|---|
{splits}

No room is in two splits. The same command gives the same bytes with the same versions of numpy, Mitsuba, its denoiser and Pillow.
Run it again to continue after an interruption.

scenes: 2

| group | varies | in this data set |
|---|---|---|
{groups}

Depth, normals and class of a pixel are those of one surface: the medoid of nine rays through the pixel, its depth carried along
the surface to the pixel's centre. Normals are those of the geometry; the image is changed by lens, noise and compression after the
maps are made, and nothing in it is moved. The images are square; crops give other aspect ratios.

"""

LIMITS = """\
Limits: rooms are box-shaped with closed doors and without people. Nothing is transparent and there are no mirrors; window panes show
an image, and their depth is that of the pane. Lens distortion is left out, because the maps would have to follow it.
"""


def describe_groups(groups: tuple[str, ...]) -> str:
    """Rows of the card's table of groups.

    Args:
        groups: those that vary.
    """
    return "\n".join(f"| `{name}` | {text} | {'yes' if name in groups else 'no'} |" for name, text in GROUPS.items())
