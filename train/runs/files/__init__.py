"""The files of a run: settings, record, checkpoints, history."""
