"""Training: schedules, averaged weights, checkpoints, task weighting, and the function behind `mult-hf train`."""
