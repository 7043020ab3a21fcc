"""Doom: views of Freedoom's levels with all six maps, rendered with ViZDoom (`mult-hf render doom --help`).

One module per step from a level to a row; each imports only from those before it:

- `raycasting`: ray casting through lines and sectors, numpy only;
- `levels`: names, splits, and the geometry read from Freedoom's files;
- `engine`: ViZDoom as a camera in a frozen level;
- `views`: choice of viewpoints, and combination of image and maps;
- `samples`: one row; `writing`: the data set on disk.

The domain replaces CocoDoom, on which the paper tests generalisation to new images (section 5).
"""
