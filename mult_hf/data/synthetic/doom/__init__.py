"""Doom: views of Freedoom's levels with all six maps, through ViZDoom (`mult-hf render doom --help`).

From a level to a row, one module per step; each imports only from those before it:

- `raycasting`: ray casting through lines and sectors, numpy only;
- `levels`: names, splits, and the geometry read from Freedoom's files;
- `engine`: ViZDoom as a camera in a frozen level;
- `views`: where to look from, and image and maps put together;
- `samples`: one row; `writing`: the data set on disk.

The domain stands in for CocoDoom, on which the paper tests how its model carries over to new images (section 5).
"""
