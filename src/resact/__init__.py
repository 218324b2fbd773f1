"""resact: from a folder of action videos to residual-frame networks.

The public names load what they need when first used, so that `import resact` is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "build_model": "resact.train.networks.models",
    "count_cost": "resact.train.networks.cost",
    "open_store": "resact.cache.store",
    "residual_frames": "resact.train.clips.residual",
}
"""Public name -> the module that defines it."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'resact' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
