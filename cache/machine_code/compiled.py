"""Functions compiled by numba that release the GIL, and the folder that caches compiled code."""

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from numba import config, njit
from numba.core.codegen import get_host_cpu_features

inlined = njit(nogil=True, forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorator for functions that are inlined into each caller."""

called = njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorator for functions that only compiled functions call."""


def compiled(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator for functions that Python calls: compiled at once, or loaded from the cache of an earlier process."""

    def compile_or_load(function: Callable[..., Any]) -> Any:
        # numba's cache key has only the function's own file; this adds the files of the functions that it calls.
        function.__qualname__ += f"_{_sources()}"
        try:
            return njit(signature, nogil=True, cache=True, no_cfunc_wrapper=True)(function)
        except (RuntimeError, OSError, EOFError, UnpicklingError):  # no writable folder, full disk, incomplete file
            return njit(signature, nogil=True)(function)

    return compile_or_load


def kept_in(function: Any) -> Path | None:
    """The cache folder of a `compiled` function; None if none is writable."""
    path = function.stats.cache_path
    return None if path is None else Path(path)


@lru_cache
def has(feature: str) -> bool:
    """Whether the target processor has some instructions, by LLVM's name for them."""
    features = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return f"+{feature}" in features.split(",")


@lru_cache
def _sources() -> str:
    digest = sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
