"""The prep job: what is missing, the tasks that decode and commit it, progress, repair."""
