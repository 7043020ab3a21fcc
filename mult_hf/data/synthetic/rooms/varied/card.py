"""The card of a data set of varied rooms; columns and encodings are those of the first version."""

from .groups import GROUPS

INTRODUCTION = """\
# Rooms, second version of the scenes

Procedural indoor scenes (offices, kitchens, living rooms, bedrooms, dining rooms, studies) with six dense maps, {size} x {size} pixels,
made as training data for photographs and rendered with Mitsuba 3 ({samples} samples per pixel, denoised, variant `{variant}`) by

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

Depth, normal and class of a pixel belong to one surface: that of the medoid of nine rays through the pixel, with the depth
extrapolated along the surface to the pixel's centre. Normals are those of the geometry. Lens, noise and compression change the image
only after the maps are made, and do not move anything in it. The images are square; crops give other aspect ratios.

"""

LIMITS = """\
Limits: rooms are box-shaped with closed doors and without people. Nothing is transparent and there are no mirrors; window panes show
an image, and their depth is that of the pane. Lens distortion is left out, because the maps would have to follow it.
"""


def describe_groups(groups: tuple[str, ...]) -> str:
    """Rows of the card's table of groups.

    Args:
        groups: names of the groups that vary.
    """
    return "\n".join(f"| `{name}` | {text} | {'yes' if name in groups else 'no'} |" for name, text in GROUPS.items())
