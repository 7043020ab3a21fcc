"""Rooms: procedural indoor scenes with all six maps, rendered with Mitsuba 3 (`mult-hf render rooms --help`).

One module per step from a seed to a row; each imports only from those before it:

- `meshes`, `textures` (images on them), `materials` (colour and gloss): numpy only;
- `floorplan` (positions of furniture), `builder` (collects the parts of one room);
- `shell` (walls, windows, doors, lights), `seating`, `cabinets`, `decor` (furniture), `layouts` (kinds of rooms);
- `viewpoints` (camera positions);
- `variants`, `rendering` (the only ones that need Mitsuba), `samples` (one row), `writing` (the data set on disk).
"""
