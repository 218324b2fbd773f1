"""Testing a run: evaluation, prediction, metrics."""
