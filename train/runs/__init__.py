"""Runs: training, evaluation, prediction, and the files of a run."""
