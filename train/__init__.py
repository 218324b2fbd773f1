"""Clips, networks, runs and their report. Calling the package trains: `resact.train(...)`."""

import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """The package and the function have one name, and a package takes its own once a module of it is imported."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from resact.train.runs.training.train import train

        return train(*arguments, **options)


sys.modules[__name__].__class__ = _Package
