"""What files that list videos have in common: their text, their rows, and names as they are on the disk."""

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path

from resact.errors import SourceError

SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""It becomes the name of a file in the store."""
SPLIT_NAME_WORDS = "expected a name of letters, digits, '_', '-' and '.'"


def read_text(path: Path) -> str:
    """A list in UTF-8, with or without a byte order mark; bytes that are none survive, as names of files may be none.

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
    """Line number and fields, empty lines left out.

    Raises:
        SourceError: quotes that do not match.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if any(value.strip() for value in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise SourceError(f"{path}, line {reader.line_num}: {error}") from None


class Names:
    """Names on the disk, found also by another spelling: other Unicode (NFC, NFD), backslashes, a leading `./`."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = set(names)
        self._by_form: dict[str, list[str]] = {}
        for name in sorted(names):
            self._by_form.setdefault(plain_form(name), []).append(name)

    def meant_by(self, name: str) -> list[str]:
        """Those that it may mean: one, unless it can mean several; none where it is not there."""
        return [name] if name in self._names else self._by_form.get(plain_form(name), [])


def plain_form(name: str) -> str:
    """Equal for two spellings of one name."""
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name
