"""Varied rooms: the second version of the scenes, whose images prepare for photographs.

The modules mirror those of the first version and use its meshes, floor plan and furniture; what a module imports stands above it:

- `groups` (what varies, random streams), `surfaces`, `prints` (textures), `palette` (materials), `shapes` (meshes);
- `builder` (one room, and the flat places in it), `objects` (small things), `clutter` (where they lie);
- `lighting` (windows, lamps, sun), `fixtures`, `furniture`, `office`, `kitchen`, `layouts` (kinds of rooms), `viewpoints` (cameras);
- `labels` (one surface a pixel), `rendering` (needs Mitsuba), `sensor` (radiance to photograph), `samples` (one row).
"""
