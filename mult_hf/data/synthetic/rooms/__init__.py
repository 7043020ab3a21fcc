"""Rooms: procedural indoor scenes with all six maps, rendered with Mitsuba 3 (`mult-hf render rooms --help`).

From a seed to a row, one module a step; what a module imports stands above it:

- `meshes`, `textures` (images on them), `materials` (colour and gloss): numpy only;
- `floorplan` (what stands where), `builder` (collects the parts of one room);
- `shell` (walls, windows, doors, lights), `seating`, `cabinets`, `decor` (furniture), `layouts` (kinds of rooms);
- `viewpoints` (where to look from);
- `variants`, `rendering` (the only ones that need Mitsuba), `samples` (one row), `writing` (the data set on disk).
"""
