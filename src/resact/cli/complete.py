"""Shell completion of argument and option values; `resact --install-completion` sets it up.

Values are imported from where they are defined, and only when needed.
"""

import pkgutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from typer import Context

from resact.errors import ResactError


def among(values: str | Sequence[str]) -> Callable[[str], list[str]]:
    """Offer the names in a collection.

    Args:
        values: the names, or where to import them from, as `module:name`.
    """

    def offer(incomplete: str) -> list[str]:
        return _beginning_with(incomplete, pkgutil.resolve_name(values) if isinstance(values, str) else values)

    return offer


def runs(incomplete: str) -> list[str]:
    """Offer the runs in `runs`."""
    return _beginning_with(incomplete, sorted(path.parent.name for path in Path("runs").glob("*/config.json")))


def stores(incomplete: str) -> list[str]:
    """Offer the stores in the data folder."""
    from resact.cache.default_paths import data_folder

    with suppress(ResactError, OSError):  # a tab key is no place for errors
        return _beginning_with(incomplete, sorted(str(path.parent) for path in data_folder().glob("*.zarr/zarr.json")))
    return []


def videos(context: Context, incomplete: str) -> list[str]:
    """Offer the ids in the store named before, or else in the only store; none of a URL, which may take long."""
    from resact.cache.address import local_path
    from resact.cache.default_paths import find_store
    from resact.cache.store import open_store

    with suppress(ResactError, OSError):
        named = local_path(context.params.get("store") or find_store())
        if named is not None:
            return _beginning_with(incomplete, open_store(named).index.video_id)
    return []


def _beginning_with(incomplete: str, values: Iterable[str]) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]
