"""The data sets that prep knows by name, and how each is found, generated or downloaded."""

import inspect
import pkgutil
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resact.errors import UsageError
from resact.pipeline.datasets.dataset import Dataset

if TYPE_CHECKING:
    from rich.console import Console

    from resact.pipeline.datasets.fetch import Download, Fetch
    from resact.pipeline.executor import Executor


@dataclass(frozen=True, kw_only=True)
class DatasetKind:
    """The functions and archives of a data set, as `module:name`; modules are imported when needed."""

    load: str
    """Finds its videos. Takes `root`, `classes`, `allow_partial` and, as keywords, its own options."""
    make: str | None = None
    """Generates its videos, if it can. Takes `root`, `classes`, `open_executor` and `console`."""
    fetch: str | None = None
    """The `Download` of its archives, if its makers offer them."""


DATASETS = {
    "ucf101": DatasetKind(
        load="resact.pipeline.datasets.ucf101:load_ucf101", fetch="resact.pipeline.datasets.archives:UCF101"
    ),
    "hmdb51": DatasetKind(
        load="resact.pipeline.datasets.hmdb51:load_hmdb51", fetch="resact.pipeline.datasets.archives:HMDB51"
    ),
    "sample": DatasetKind(
        load="resact.pipeline.datasets.sample:load_sample", make="resact.pipeline.datasets.sample:make_sample"
    ),
    "folder": DatasetKind(load="resact.pipeline.datasets.folder:load_folder"),
}
"""All data sets of `resact prep`, by name: a new data set is one line here."""

_SHARED_ARGUMENTS = {"root", "classes", "allow_partial"}


def load_dataset(
    name: str,
    *,
    root: Path | None = None,
    classes: Sequence[str] | None = None,
    allow_partial: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Dataset:
    """Find a data set's videos.

    Args:
        name: one of `DATASETS`.
        root: folder of the data set; None for its default places.
        classes: names of the classes to use; None for all.
        allow_partial: continue even if videos that the lists name are missing.
        options: options of single data sets, as keyword arguments of their `load` function.

    Raises:
        UsageError: no such data set or class, or an option that belongs to another data set.
        SourceError: sources are missing, or fewer than in the lists.
    """
    require_own_options(name, options or {})
    load = pkgutil.resolve_name(_kind(name).load)
    found: Dataset = load(root, classes=classes, allow_partial=allow_partial, **(options or {}))
    return found


def require_own_options(name: str, options: Iterable[str]) -> None:
    """Refuse options that a data set does not take, before any work.

    Raises:
        UsageError: no such data set, or an option that belongs to another one.
    """
    if foreign := [option for option in options if option not in _own_options(name)]:
        takers = [other for other in DATASETS if foreign[0] in _own_options(other)]
        raise UsageError(
            f"got --{foreign[0].replace('_', '-')}, which belongs to {' or '.join(takers) or 'no data set'}, "
            f"not to {name}: leave it out"
        )


def make_dataset(
    name: str,
    *,
    root: Path | None,
    classes: Sequence[str] | None,
    open_executor: "Callable[[], AbstractContextManager[Executor]]",
    console: "Console",
) -> None:
    """Generate the data set's videos, if it can be generated.

    Raises:
        UsageError: no such data set.
        SourceError: it could not be generated.
        Interrupted: ctrl-C.
    """
    if make := _kind(name).make:
        pkgutil.resolve_name(make)(root, classes=classes, open_executor=open_executor, console=console)


def plan_fetch(name: str, root: Path | None, address: str | None = None) -> "Fetch | None":
    """The download of a data set's missing files; None if nothing is missing, or it cannot be downloaded.

    Args:
        name: one of `DATASETS`.
        root: folder that holds it, or will.
        address: URL of the folder with the archives; None for that of the data set's makers.

    Raises:
        UsageError: no such data set, or an address for a data set that cannot be downloaded.
    """
    archives = _kind(name).fetch
    if archives is None:
        if address is not None:
            raise UsageError(f"got --download-from, but {name} is not downloaded: leave it out")
        return None
    download: Download = pkgutil.resolve_name(archives)
    return download.plan(root, address and address.rstrip("/"))


def _kind(name: str) -> DatasetKind:
    if name not in DATASETS:
        own = f"; your own videos: `resact prep folder --root {shlex.quote(name)}`" if Path(name).is_dir() else ""
        raise UsageError(f"got data set {name!r}, expected one of {', '.join(DATASETS)}{own}")
    return DATASETS[name]


def _own_options(name: str) -> set[str]:
    return set(inspect.signature(pkgutil.resolve_name(_kind(name).load)).parameters) - _SHARED_ARGUMENTS
