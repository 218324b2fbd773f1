"""Declares each setting of a run once: as a dataclass field with its default, bounds, help and source.

The command line's options, the toml keys, `--help`, the tables in docs/commands.md and the checks all come from these
declarations. Nothing here loads torch, so that `--help` stays quick.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from functools import cache
from typing import Any, Literal, NoReturn

from resact.cache.names import names_in
from resact.errors import UsageError

Kind = Literal["whole", "number", "flag", "choice", "counts", "text", "names", "table"]
Panel = Literal["Clips", "Network", "Recipe", "Augmentation", "Fine-tuning", "Execution"]
"""Heading in the help and in the docs."""

MOST_WHOLE = 2**63 - 1
_KEY = "resact.setting"
_KINDS: dict[Any, Kind] = {
    int: "whole",
    float: "number",
    bool: "flag",
    str: "text",
    tuple[int, ...]: "counts",
    tuple[str, ...]: "names",
    Mapping[str, Any]: "table",
}
"""Type of a dataclass field -> kind of its setting, unless it has `choices`."""
_KINDS |= {of | None: kind for of, kind in _KINDS.items()}

_RANGES = {
    "table": "a table of text, numbers, flags, lists and tables",
    "flag": "true or false",
    "text": "a name",
    "names": "names",
}


class Table(dict[str, Any]):
    """Plain values by name, as a toml file or a record has them; never changed, so that it can be a key."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))

    @property
    def is_plain(self) -> bool:
        """Whether it is the same after a turn as JSON: no dates, no tuples, no infinity."""
        try:
            return bool(json.loads(json.dumps(self, allow_nan=False)) == self)
        except (TypeError, ValueError, RecursionError):
            return False


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything about a setting except its name, which is that of its dataclass field."""

    kind: Kind
    panel: Panel
    help: str
    """One sentence or two, without the default."""
    default: Any
    default_words: str | None = None
    """Text for a default of None, such as `on if the data set is flip-safe`."""
    choices: Sequence[str] = ()
    pattern: re.Pattern[str] | None = None
    """Pattern of other allowed values of a choice, and its name in messages."""
    pattern_words: str = ""
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    metavar: str | None = None
    source: str | None = None
    """Source of the default: a section of the paper, an arXiv number, or `ours`."""
    aliases: tuple[str, ...] = ()
    """Older names, which options and files may still use."""

    @property
    def default_text(self) -> str | None:
        """The default as text; None if there is nothing to say."""
        if self.default_words is not None:
            return self.default_words
        if self.default is None:
            return None
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def range_text(self) -> str:
        """The allowed values as text."""
        if self.kind == "choice":
            choices = [*self.choices, *filter(None, [self.pattern_words])]
            return " or ".join((", ".join(choices[:-1]), choices[-1])) if choices else ""
        if self.kind == "counts":
            return f"{len(self.default)} whole numbers above 0"
        if self.kind in _RANGES:
            return _RANGES[self.kind]
        noun = "a whole number" if self.kind == "whole" else "a number"
        low = f"{self.least:,}" if self.least is not None else None
        if low is not None and self.most is not None and self.most != MOST_WHOLE:
            return f"{noun} from {low} to {self.most:,}"
        bounds = [
            f"of {low} or more" if low is not None else "",
            f"above {self.above:,}" if self.above is not None else "",
            f"below {self.below:,}" if self.below is not None else "",
            f"up to {self.most:,}" if self.most not in (None, MOST_WHOLE) else "",
        ]
        return " ".join([noun, " and ".join(filter(None, bounds))]).strip()

    def checked(self, name: str, value: Any, *, written: str | None = None) -> Any:
        """The value in its stored form: `3` as `3.0` for a number, a list as a tuple.

        Args:
            name: name of the setting.
            value: value of any type.
            written: start of the error message if the value was not an option, such as `recipe.toml: got width`.

        Raises:
            UsageError: the value has another type, or is out of bounds.
        """
        if value is None and self.default is None:
            return None
        if self.kind == "names" and isinstance(value, str):
            value = names_in([value])
        if self.kind == "table" and isinstance(value, dict):
            value = Table(value)
        if self.kind in ("counts", "names") and isinstance(value, list):
            value = tuple(value)
        if not self._fits(value):
            refuse(name, value, self.range_text, written=written)
        return float(value) if self.kind == "number" else value

    def _fits(self, value: Any) -> bool:
        match self.kind:
            case "flag":
                return isinstance(value, bool)
            case "choice":
                named = self.pattern is not None and isinstance(value, str) and self.pattern.fullmatch(value)
                return isinstance(value, str) and (value in self.choices or bool(named))
            case "table":
                return isinstance(value, Table) and value.is_plain
            case "text":
                return isinstance(value, str)
            case "names":
                return isinstance(value, tuple) and all(isinstance(name, str) and name for name in value)
            case "counts":
                most = self.most or MOST_WHOLE
                whole = isinstance(value, tuple) and all(_is_whole(count) and 0 < count <= most for count in value)
                return whole and len(value) == len(self.default)
            case "whole":
                return _is_whole(value) and self._is_within(value)
        # A comparison, and no conversion, which whole numbers too large for a float would not survive.
        return isinstance(value, int | float) and not isinstance(value, bool) and self._is_within(value)

    def _is_within(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (value <= self.most if self.most is not None else value <= sys.float_info.max)
            and (self.below is None or value < self.below)
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def setting(default: Any, **said: Any) -> Any:
    """A dataclass field that is a setting of its type's kind; the other arguments are fields of `Setting`.

    Unless said, a whole number is below 2^63, and N in the help.
    """
    return field(default=default, metadata={_KEY: said})


def declared(*parts: type) -> dict[str, Setting]:
    """Name -> setting, for the fields of dataclasses, in their order."""
    return {each.name: _of_field(each) for part in parts for each in fields(part) if _KEY in each.metadata}


@cache
def _of_field(declaration: Field[Any]) -> Setting:
    said = declaration.metadata[_KEY]
    kind = "choice" if "choices" in said else _KINDS[declaration.type]
    usual = {"most": MOST_WHOLE, "metavar": "N"} if kind == "whole" else {}
    return Setting(kind=kind, default=declaration.default, **usual | said)


def check(instance: Any) -> None:
    """Call this in a frozen dataclass's `__post_init__`: it checks the settings and stores each in the form of its
    kind.

    Raises:
        UsageError: a setting is wrong; names the first one.
    """
    for name, one in declared(type(instance)).items():
        object.__setattr__(instance, name, one.checked(name, getattr(instance, name)))


def option(name: str) -> str:
    """A setting's name on the command line, such as `--batch-size`; `[network]`, a table in a file, has none."""
    return "[network]" if name == "network_settings" else "--" + name.replace("_", "-")


def refuse(name: str, got: Any, expected: str, *, written: str | None = None) -> NoReturn:
    """Raise an error about a setting's value; `written` as in `Setting.checked`.

    Raises:
        UsageError: always.
    """
    huge = isinstance(got, int) and abs(got) > MOST_WHOLE  # Python does not print integers of any length
    words = f"a whole number of {got.bit_length()} bits" if huge else repr(got)
    raise UsageError(f"{written or f'got {option(name)}'} {words}, expected {expected}")
