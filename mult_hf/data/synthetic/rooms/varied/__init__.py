"""Varied rooms: the second version of the scenes, as training data for photographs.

The modules mirror those of the first version and use its meshes, floor plan and furniture. Each imports only from those listed before it:

- `groups` (what varies, random streams), `surfaces`, `prints` (textures), `palette` (materials), `shapes` (meshes);
- `builder` (one room, and the flat places in it), `objects` (small things), `clutter` (where they lie);
- `lighting` (windows, lamps, sun), `fixtures`, `furniture`, `office`, `kitchen`, `layouts` (kinds of rooms), `viewpoints` (cameras);
- `labels` (one surface per pixel), `rendering` (needs Mitsuba), `sensor` (radiance to photograph), `samples` (one row).
"""
