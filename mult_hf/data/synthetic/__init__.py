"""Renderers of two synthetic domains with exact maps, Rooms and Doom, and the modules they share.

- `camera`: focal length, and the geometry maps of a view;
- `rows`: storage of a view as a row;
- `shards`: Parquet files that record the settings they were rendered with.
"""
