"""What was found when something that resact needs of a machine was tried."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass

State = Literal["ok", "warning", "bad"]


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    name: str
    state: State
    found: str
    advice: str | None = None
    """What to do where the state is not `ok`."""
