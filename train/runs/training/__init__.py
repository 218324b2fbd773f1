"""Training a run: the loop, its steps, its devices, its display."""
