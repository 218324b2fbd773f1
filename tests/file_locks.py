"""Stand-ins for what other processes do with locks."""

import fcntl
from collections.abc import Callable

import pytest


def before_the_next_lock(act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what another process could do between opening a file and locking it."""
    real = fcntl.flock

    def flock(*arguments: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        act()
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", flock)
