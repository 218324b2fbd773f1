"""What this process holds of the system, to see what is left behind."""

import gc
import threading
from pathlib import Path


def held() -> dict[str, int]:
    """Numbers of open descriptors, of mappings of stores' indices, and of threads."""
    gc.collect()  # what earlier tests left
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "mappings": sum("/index/" in line for line in Path("/proc/self/maps").read_text().splitlines()),
        "threads": threading.active_count(),
    }


def left_behind(before: dict[str, int]) -> dict[str, int]:
    """What is held more than before. What earlier tests left, such as a server's threads, may go meanwhile."""
    return {name: now for name, now in held().items() if now > before[name]}
