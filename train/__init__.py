"""Clips to networks to metrics to report."""
