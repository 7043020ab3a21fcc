"""Data sets for training: derived maps, augmentations, mixing, and one module for each benchmark or rendered domain.

Every module is imported by its own name (`from mult_hf.data.derive import edges2d`), because each needs other packages.
"""
