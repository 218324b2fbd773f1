"""Reading files that list videos or classes: text, rows, class names; and which files on disk their names mean."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from resact.errors import SourceError


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


def lines_of(text: str) -> list[str]:
    """All lines of a list."""
    return re.split(r"\r\n|\n|\r", text)  # `splitlines` would also split at characters that a name may have


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
            self._by_form.setdefault(_plain_form(name), []).append(name)

    def meant_by(self, name: str) -> list[str]:
        """The names that a spelling may mean: usually one, several if ambiguous, none if it does not exist."""
        return [name] if name in self._names else self._by_form.get(_plain_form(name), [])


def _plain_form(name: str) -> str:
    """The same for all spellings of a name."""
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def read_class_names(path: Path) -> dict[str, str]:
    """Number in a list -> class name.

    The file is text with a name on each line, numbered from 0, or with a number before each name or after a comma. Or
    it is JSON: an array of names (for Diving48, of the parts of each name), or an object that maps names to numbers or
    numbers to names.

    Raises:
        SourceError: it cannot be read, or a number or name occurs twice.
    """
    text = read_text(path).strip()
    if text[:1] in ("[", "{"):
        try:
            pairs = _pairs_of_json(json.loads(text))
        except (ValueError, TypeError):
            raise SourceError(
                f"{path} is not a JSON file of class names, expected an array of names, or names: numbers"
            ) from None
    else:
        lines = [line.strip() for line in lines_of(text) if line.strip()]
        pairs = _pairs_of_lines(lines)
    numbers = [number for number, _ in pairs]
    names = [name for _, name in pairs]
    for what, values in (("number", numbers), ("class", names)):
        if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
            raise SourceError(f"{path} has the {what} {twice[0]!r} twice: leave one")
    if not pairs:
        raise SourceError(f"{path} names no class, expected one name per line")
    return dict(pairs)


def _pairs_of_lines(lines: Sequence[str]) -> list[tuple[str, str]]:
    for form in (r"(?P<number>\d+)(?:[ \t]+|[ \t]*,[ \t]*)(?P<name>.+)", r"(?P<name>.+)[ \t]*,[ \t]*(?P<number>\d+)"):
        if all(matches := [re.fullmatch(form, line) for line in lines]):
            return [(str(int(match["number"])), match["name"].strip()) for match in matches if match]
    return [(str(number), name) for number, name in enumerate(lines)]


def _pairs_of_json(parsed: Any) -> list[tuple[str, str]]:
    if isinstance(parsed, dict):
        numbered = all(str(key).isdecimal() for key in parsed)
        items: Iterator[tuple[Any, Any]] = ((k, v) if numbered else (v, k) for k, v in parsed.items())
        return [(str(int(number)), str(name)) for number, name in items]
    return [(str(n), name if isinstance(name, str) else " ".join(map(str, name))) for n, name in enumerate(parsed)]
