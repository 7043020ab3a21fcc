"""Renderers of two synthetic domains with exact maps, Rooms and Doom, and the modules they share.

- `camera`: focal length, and the maps that a camera sees;
- `rows`: how a view is stored as a row;
- `shards`: parquet files that carry the settings they were rendered with.
"""
