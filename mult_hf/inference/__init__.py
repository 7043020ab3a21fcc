"""Running a model over images, videos and data sets: predictors, tiles, sources of images, files of results, attention maps."""
