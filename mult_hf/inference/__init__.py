"""Inference on images, videos and data sets: predictors, tiling, image sources, output files, attention maps."""
