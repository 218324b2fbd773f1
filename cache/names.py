"""Several names: in an option, separated by commas or in double quotes, and in a message, the first few."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")

_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^,]*?))\s*(?:,|\Z)')


def names_in(texts: Sequence[str] | None) -> list[str] | None:
    """The names given to an option: repeated, or separated by commas; None if the option is not given.

    A name in double quotes may contain commas, and spaces at its ends; a double quote in it is doubled.
    """
    if texts is None:
        return None
    found = [match for text in texts for match in _NAME.finditer(text)]
    names = [match[2] if match[1] is None else match[1].replace('""', '"') for match in found]
    return [name for name in names if name]


def as_option(name: str) -> str:
    """A name, quoted so that `names_in` reads it."""
    plain = "," not in name and '"' not in name and name == name.strip()
    return name if plain else '"' + name.replace('"', '""') + '"'


def first_of(items: Sequence[Item], most: int = 5, *, show: Callable[[Item], str] = str) -> str:
    """The first items of a list for a message, and how many more there are: `a, b, c and 4 more`.

    Args:
        items: names, or what `show` makes names of.
        most: number of items to show.
        show: called for these alone.
    """
    more = len(items) - most
    return ", ".join(map(show, items[:most])) + (f" and {more:,} more" if more > 0 else "")
