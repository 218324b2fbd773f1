"""Code shared by files that list videos: reading text and rows, and matching names with files on disk."""

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from resact.errors import SourceError

SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Allowed names of splits, which become file names in the store."""
SPLIT_NAME_WORDS = "expected a name of letters, digits, '_', '-' and '.'"


def read_text(path: Path) -> str:
    """Read a list in UTF-8, with or without a byte order mark; undecodable bytes are kept, as file names may have some.

    Raises:
        SourceError: it cannot be read, or is in UTF-16.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{path} is in UTF-16: save it in UTF-8")
    return data.decode("utf-8-sig", "surrogateescape")


def rows_of(text: str, path: Path, *, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not empty.

    Raises:
        SourceError: unbalanced quotes.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if any(value.strip() for value in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise SourceError(f"{path}, line {reader.line_num}: {error}") from None


class Names:
    """Names on disk, also found by other spellings: other Unicode forms (NFC, NFD), backslashes, a leading `./`."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = set(names)
        self._by_form: dict[str, list[str]] = {}
        for name in sorted(names):
            self._by_form.setdefault(plain_form(name), []).append(name)

    def meant_by(self, name: str) -> list[str]:
        """The names that a spelling may mean: usually one, several if ambiguous, none if it does not exist."""
        return [name] if name in self._names else self._by_form.get(plain_form(name), [])


def plain_form(name: str) -> str:
    """A form that is the same for all spellings of a name."""
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name
