"""The result of checking one requirement of resact on a machine."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "bad"]


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    name: str
    state: State
    found: str
    advice: str | None = None
    """What to do if the state is not `ok`."""
