"""Data sets for multi-task dense prediction: one schema, readers, renderers, derivations and augmentations."""
