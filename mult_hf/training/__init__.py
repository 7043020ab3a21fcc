"""Training: schedules, averaged weights, checkpoints, task weighting, and the function that `mult-hf train` runs."""
