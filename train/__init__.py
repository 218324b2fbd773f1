"""Clips to networks to metrics to report.

Called, the package trains: `resact.train({"step": 2}, store="data/ucf101.zarr")`. All arguments are in
`help(resact.train.runs.training.train.train)`.
"""

import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """The package and the function have one name, and a package takes its own once a module of it is imported."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from resact.train.runs.training.train import train

        return train(*arguments, **options)


sys.modules[__name__].__class__ = _Package
