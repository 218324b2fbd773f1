"""Benchmarks: resact beside its competitors, on this machine, in one run. Nothing outside imports this."""
