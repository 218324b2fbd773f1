"""The report: the paper's tables with our runs beside them, and what these say of its claims."""
