"""The report: runs side by side, the paper's tables next to our runs, and what these say about its claims."""
