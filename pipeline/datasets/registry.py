"""The data sets that prep knows by name, and what each can do: it is found, and maybe generated or downloaded."""

import pkgutil
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resact.errors import UsageError
from resact.pipeline.datasets.dataset import Dataset

if TYPE_CHECKING:
    from rich.console import Console

    from resact.pipeline.datasets.fetch import Fetch
    from resact.pipeline.executor import Executor

DATASETS = {
    "ucf101": "resact.pipeline.datasets.ucf101:UCF101",
    "hmdb51": "resact.pipeline.datasets.hmdb51:HMDB51",
    "sample": "resact.pipeline.datasets.sample:SAMPLE",
    "folder": "resact.pipeline.datasets.folder:FOLDER",
}
"""All data sets of `resact prep`: name -> where its `DatasetKind` is, which is imported when needed.

A new one is a file that declares it, as `ucf101` does, a line here, and its name in the help of `resact prep`.
"""


class DatasetKind:
    """A data set, or a kind of data set, of `resact prep NAME`."""

    name: str
    options: tuple[str, ...] = ()
    """The options that only it has, which `load` takes as further keyword arguments."""

    def load(self, root: Path | None, *, classes: Sequence[str] | None = None, allow_partial: bool = False) -> Dataset:
        """Find its videos.

        Args:
            root: folder of the data set; None for its default places.
            classes: names of the classes to use; None for all.
            allow_partial: continue even if videos that the lists name are missing.

        Raises:
            UsageError: no such class, or a wrong option.
            SourceError: sources are missing, or fewer than in the lists.
        """
        raise NotImplementedError

    def make(
        self,
        root: Path | None,
        *,
        classes: Sequence[str] | None,
        open_executor: "Callable[[], AbstractContextManager[Executor]]",
        console: "Console",
    ) -> None:
        """Generate its videos, if it can be generated.

        Raises:
            SourceError: it could not be generated.
            Interrupted: ctrl-C.
        """

    def plan_fetch(
        self,
        root: Path | None,  # noqa: ARG002 - for those that can be downloaded
        address: str | None = None,
    ) -> "Fetch | None":
        """The download of its missing files; None if nothing is missing, or it cannot be downloaded.

        Args:
            root: folder that holds it, or will.
            address: URL of the folder with the archives; None for that of the data set's makers.

        Raises:
            UsageError: an address, and it cannot be downloaded.
        """
        if address is not None:
            raise UsageError(f"got --download-from, but {self.name} is not downloaded: leave it out")
        return None


def dataset_kind(name: str) -> DatasetKind:
    """The data set of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in DATASETS:
        own = f"; your own videos: `resact prep folder --root {shlex.quote(name)}`" if Path(name).is_dir() else ""
        raise UsageError(f"got data set {name!r}, expected one of {', '.join(DATASETS)}{own}")
    kind: DatasetKind = pkgutil.resolve_name(DATASETS[name])
    return kind


def load_dataset(
    name: str, *, root: Path | None = None, options: Mapping[str, Any] | None = None, **shared: Any
) -> Dataset:
    """Find the videos of a data set by its name, with `options` that only this data set has: see `DatasetKind.load`."""
    require_own_options(name, options or {})
    return dataset_kind(name).load(root, **shared, **(options or {}))


def require_own_options(name: str, options: Iterable[str]) -> None:
    """Refuse options that a data set does not take, before any work.

    Raises:
        UsageError: no such data set, or an option that belongs to another one.
    """
    if foreign := [option for option in options if option not in dataset_kind(name).options]:
        takers = [other for other in DATASETS if foreign[0] in dataset_kind(other).options]
        raise UsageError(
            f"got --{foreign[0].replace('_', '-')}, which belongs to {' or '.join(takers) or 'no data set'}, "
            f"not to {name}: leave it out"
        )
