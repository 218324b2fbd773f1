"""Benchmarks: resact and its competitors on this machine, in one run. No code outside imports this package."""
