"""Default paths of sources and stores, and of what resact keeps for the user."""

import os
from pathlib import Path

from resact.errors import StoreNotFoundError, UsageError


def data_folder() -> Path:
    """The data folder: `RESACT_DATA`, or `data` in the current folder.

    Raises:
        UsageError: it is a URL.
    """
    named = os.environ.get("RESACT_DATA") or "data"
    if "://" in named:
        raise UsageError(f"got RESACT_DATA={named}, expected a folder: name a store's URL where the command takes one")
    return Path(named)


def cache_folder() -> Path:
    """The folder for what can be made again: `resact` in `XDG_CACHE_HOME`, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "resact"  # noqa: PTH111 no HOME


def default_store(dataset: str) -> Path:
    """The default path of a data set's store, in the data folder."""
    return data_folder() / f"{dataset}.zarr"


def find_store() -> Path:
    """The store in the data folder, if there is exactly one.

    Raises:
        StoreNotFoundError: there is none.
        UsageError: there are several.
    """
    folder = data_folder()
    stores = sorted(path.parent for path in folder.glob("*.zarr/zarr.json"))
    if not stores:
        raise StoreNotFoundError(f"no clip store in {folder}: make one with `resact prep ucf101`, or name one")
    if len(stores) > 1:
        raise UsageError(f"{folder} holds several stores ({', '.join(map(str, stores))}): name one")
    return stores[0]
