"""The prep job: planning, tasks that decode and commit videos, progress, repair."""
