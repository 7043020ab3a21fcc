"""Renderers of two synthetic domains with exact maps: Rooms and Doom."""
