"""Notes that prep keeps beside the index: each is one sealed document, there or not."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from resact.cache.durable import sync_folder, write_file
from resact.cache.files import Files, read_if_there
from resact.cache.layout import group_document, seal, unseal
from resact.errors import DamagedError

T = TypeVar("T")


@dataclass(frozen=True)
class Note(Generic[T]):
    """Reads and writes one kind of note. Write and remove it only while holding `store_lock`."""

    name: str
    """Of its file, below the store."""
    attributes_of: Callable[[T], dict[str, Any]]
    value_of: Callable[[dict[str, Any]], T]
    """The inverse."""

    def document(self, value: T) -> bytes:
        """The note's bytes."""
        return seal(group_document(self.attributes_of(value)))

    def write(self, store: Path, value: T) -> None:
        """Write the note atomically and sync it."""
        write_file(store, self.name, [self.document(value)])

    def remove(self, store: Path) -> None:
        """Remove the note, if there is one."""
        (store / self.name).unlink(missing_ok=True)
        sync_folder((store / self.name).parent)

    def read(self, files: Files) -> T | None:
        """The note; None if there is none.

        Raises:
            DamagedError: the note has changed since it was written.
        """
        data = read_if_there(files, self.name)
        if data is None:
            return None
        try:
            return self.value_of(unseal(data, f"{files}/{self.name}")["attributes"])
        except (DamagedError, KeyError, TypeError):
            raise DamagedError(
                f"{files}/{self.name} has changed since it was written: run the same prep again"
            ) from None
