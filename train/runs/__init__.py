"""Runs: training, evaluation, prediction, and what is kept of them."""
