"""Evaluation of models on a data set: the loop over processes, comparisons, tables and model cards."""
