"""The runs side by side: those with the same test videos are compared, whatever their networks and settings.

Shapes: V videos.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from resact.errors import UsageError
from resact.train.report.figures import Figures, figures_of
from resact.train.report.group import Group
from resact.train.report.intervals import Interval, accuracy_interval
from resact.train.report.paired import Comparison, compare
from resact.train.report.paper import RowKey

if TYPE_CHECKING:
    from resact.train.report.read_runs import ReadRun

MOST_PAIRED = 4
"""Up to this number of entries, all pairs are compared; with more, only those that `--compare` names."""


class ClassAccuracy(NamedTuple):
    """Accuracy on one class's test videos."""

    class_name: str
    videos: int
    top1: float | None
    """Top-1 in percent, mean over the seeds; None without test videos."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One run, or several that differ only in their seed."""

    name: str
    """Name of its run; for several, what their names have in common."""
    runs: tuple["ReadRun", ...]
    """Runs in any state, ordered by seed."""
    apart: str
    """Settings in which it differs from other entries; empty if there are none."""

    @property
    def key(self) -> RowKey:
        """Its network and input."""
        return self.runs[0].key

    @property
    def done(self) -> tuple["ReadRun", ...]:
        """Runs that are tested."""
        return tuple(run for run in self.runs if run.evaluation is not None)

    @property
    def state(self) -> str:
        """The state: `done` if one of its runs is done."""
        return "done" if self.done else self.runs[0].state

    @cached_property
    def figures(self) -> Figures | None:
        """Figures of its finished runs; None if none is finished."""
        return figures_of(self.runs)

    @cached_property
    def accuracy(self) -> Interval | None:
        """Top-1 in percent of videos, with its 95 % interval; None if no run is finished."""
        return accuracy_interval(self._hits, self.done[0].tested.cluster) if self.done else None

    @cached_property
    def per_class(self) -> tuple[ClassAccuracy, ...]:
        """Accuracy per class, in the order of the labels; empty if no run is finished."""
        if not self.done:
            return ()
        label_V = np.array([label for label, _ in self.done[0].tested.cluster])
        hits = [self._hits[label_V == label] for label in range(len(self.runs[0].record.classes))]
        return tuple(
            ClassAccuracy(name, len(of_class), 100 * float(of_class.mean()) if len(of_class) else None)
            for name, of_class in zip(self.runs[0].record.classes, hits, strict=True)
        )

    @property
    def mean_class(self) -> float | None:
        """Mean of the class accuracies, in percent: each class has the same weight, however many videos it has."""
        known = [score.top1 for score in self.per_class if score.top1 is not None]
        return float(np.mean(known)) if known else None

    @property
    def _hits(self) -> npt.NDArray[np.float64]:
        """(V,) share of the seeds that have each video right."""
        hits: npt.NDArray[np.float64] = np.mean([run.tested.hits1 for run in self.done], axis=0)
        return hits


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """The runs of one data set and split, with the same test videos."""

    group: Group
    """The group of one of its runs: all have its data set and split, and lack the same."""
    entries: tuple[Entry, ...]
    """Entries, the most accurate first and untested ones last."""
    settings: str
    """Settings that all entries share and that are not the default, in words."""
    comparisons: tuple[Comparison, ...]
    """Comparisons of all pairs, the more accurate first, if there are few entries."""

    @property
    def runs(self) -> list["ReadRun"]:
        """All runs of the data set."""
        return [run for entry in self.entries for run in entry.runs]

    @property
    def notes(self) -> list[str]:
        """Notes if recordings may be on both sides of the split."""
        return sorted({note for run in self.runs for note in run.notes})

    @property
    def videos(self) -> str:
        """The test videos, in words; empty if no run is tested."""
        entry = next((entry for entry in self.entries if entry.done), None)
        if entry is None:
            return ""
        evaluation = entry.done[0].tested
        groups, classes = len(set(evaluation.cluster)), len(entry.per_class)
        return f"{len(evaluation.hits1):,} test videos of {classes:,} classes, in {groups:,} groups"


def find_data_sets(found: Sequence["ReadRun"]) -> tuple[DataSet, ...]:
    """Collect runs with the same test videos; an untested run goes with the runs of its store."""
    store_of: dict[tuple[Any, ...], list[ReadRun]] = {}
    for run in found:
        group = run.group
        store = (group.dataset, group.split, group.partial, group.fingerprint, group.contents)
        store_of.setdefault(store, []).append(run)
    together: dict[tuple[Any, ...], list[ReadRun]] = {}
    for store, runs in store_of.items():
        tested = [run for run in runs if run.evaluation is not None]
        keys = {run.path: (*store[:3], _test_videos(run)) for run in tested}
        other = keys[tested[0].path] if tested else store
        for run in runs:
            together.setdefault(keys.get(run.path, other), []).append(run)
    data_sets = [_data_set(runs) for runs in together.values()]
    return tuple(sorted(data_sets, key=lambda data_set: not data_set.videos))  # data sets with figures first


def asked_comparison(found: Sequence["ReadRun"], asked: Sequence[Sequence[str]], runs: Path) -> Comparison:
    """The comparison of two sides that a user names.

    Args:
        found: all runs.
        asked: for each of the two sides, the name of a run or of several seeds.
        runs: the folder of runs.

    Raises:
        UsageError: there is no such run, it is not tested, or the two were not tested on the same videos.
    """
    return compare(*(_side(found, names, runs) for names in asked))


def _side(found: Sequence["ReadRun"], names: Sequence[str], runs: Path) -> list["ReadRun"]:
    known = {run.folder.name: run for run in found}
    side = []
    for name in names:
        run = known.get(name) or next((run for run in found if Path(run.path) == Path(name)), None)
        if run is None:
            there = ", ".join(known) or "(none)"
            raise UsageError(f"got --compare {name}, expected two names of runs in {runs}: {there}")
        if run.evaluation is None:
            state = f"{run.state} ({run.problem})" if run.problem else run.state
            next_step = f": `{run.next_command}`" if run.next_command else ""
            raise UsageError(f"got --compare {name}, which is {state}, expected runs that are tested{next_step}")
        side.append(run)
    return side


def _data_set(runs: Sequence["ReadRun"]) -> DataSet:
    alike: dict[tuple[Any, ...], list[ReadRun]] = {}
    for run in sorted(runs, key=lambda run: (run.record.config.seed, run.path)):
        alike.setdefault((run.key, run.group), []).append(run)
    seeds = [entry for same in alike.values() for entry in _by_seed(same)]
    said = [_words(entry[0]) for entry in seeds]
    common = [word for word in said[0] if all(word in other for other in said)]
    entries = [
        Entry(name=name, runs=tuple(entry), apart="; ".join(word for word in words if word not in common))
        for name, entry, words in zip(_names(seeds), seeds, said, strict=True)
    ]
    entries.sort(key=lambda entry: (-entry.figures.top1 if entry.figures else 1.0, entry.name))
    done = [entry for entry in entries if entry.done]
    pairs = combinations(done, 2) if len(done) <= MOST_PAIRED else ()
    return DataSet(
        group=runs[0].group,
        entries=tuple(entries),
        settings="; ".join(common),
        comparisons=tuple(compare(a.done, b.done, names=(a.name, b.name)) for a, b in pairs),
    )


def _by_seed(runs: Sequence["ReadRun"]) -> Iterable[Sequence["ReadRun"]]:
    """All runs as one entry; or, if two have the same seed, each run as an entry of its own."""
    seeds = {run.record.config.seed for run in runs}
    return [runs] if len(seeds) == len(runs) else [[run] for run in runs]


def _names(entries: Sequence[Sequence["ReadRun"]]) -> list[str]:
    """Names of entries. Several seeds have the common part of their names, if no other entry has it too."""
    names = []
    for entry in entries:
        first, count = entry[0].folder.name, len(entry)
        stems = {re.sub(r"[-_ ]*\d+$", "", run.folder.name) for run in entry}
        short = f"{stems.pop()} ({count} seeds)" if len(stems) == 1 else f"{first} and {count - 1} more"
        names.append(first if count == 1 else short)
    return [
        f"{entry[0].folder.name} and {len(entry) - 1} more" if names.count(name) > 1 and len(entry) > 1 else name
        for name, entry in zip(names, entries, strict=True)
    ]


def _words(run: "ReadRun") -> list[str]:
    """Settings that are not the default, and its store."""
    group = run.group
    words = [*group.changed_words(), *group.execution_words]
    return [*words, f"store {Path(run.record.store.path).name} ({group.store})"]


def _test_videos(run: "ReadRun") -> tuple[Any, ...]:
    return run.record.classes, run.tested.video_id, run.tested.cluster
