"""resact: from a folder of action videos to residual-frame networks.

The public names load what they need when first used, so that `import resact` is quick. `__init__.pyi` beside this file
tells their types to editors and type checkers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "ClipDataset": "resact.train.clips.dataset",
    "ClipGeometry": "resact.train.clips.geometry",
    "ClipStream": "resact.train.clips.stream",
    "Normalisation": "resact.train.clips.normalisation",
    "TestPlan": "resact.train.clips.sampling",
    "TrainPlan": "resact.train.clips.sampling",
    "build_model": "resact.train.networks.models",
    "count_cost": "resact.train.networks.cost",
    "evaluate": "resact.notebook",
    "load_run": "resact.notebook",
    "measure_normalisation": "resact.train.clips.measurement",
    "open_store": "resact.cache.store",
    "predict": "resact.notebook",
    "residual_frames": "resact.train.clips.residual",
    "stream": "resact.notebook",
}
"""Public name -> the module that defines it."""

__all__ = ["__version__", *_HOMES, "train"]


def __getattr__(name: str) -> Any:
    if name == "train":  # the package, which may be called
        return import_module("resact.train")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'resact' has no attribute {name!r}; public names: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
