"""The report: every row of the paper's tables with the runs that fill it, and what they say of the paper's claims."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

import numpy as np

from resact.errors import UsageError
from resact.train.report.bootstrap import FEWEST_GROUPS, Interval, clustered_interval
from resact.train.report.commands import Filling, default_settings, filling
from resact.train.report.group import Group
from resact.train.report.paper import CLAIMS, PAPER_ROWS, TABLES, Claim, PaperRow, RowKey

if TYPE_CHECKING:
    from resact.train.report.found import BrokenRun, FoundRun

Status = Literal["done", "running", "not run"]
Verdict = Literal["confirmed", "refuted", "unresolved", "not run"]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one or more runs that differ in their seed alone; accuracies in percent of videos, means over the seeds."""

    top1: float
    top5: float | None
    """None with fewer than five classes."""
    top1_spread: float | None
    """Sample standard deviation over the seeds; None with one seed."""
    top5_spread: float | None
    multiply_adds: int
    """Of one clip of the run's own size through its own network."""
    parameters: int
    epochs: int
    clips_per_second: float | None
    """Of training; None where no history says it."""
    padded_share: float
    """Of the training clips, those that are longer than their video."""
    seeds: tuple[int, ...]

    @property
    def g(self) -> float:
        """Multiply-adds in 10^9, as the paper gives them."""
        return self.multiply_adds / 1e9


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row of the paper, with ours."""

    paper: PaperRow
    runs: tuple["FoundRun", ...]
    """In the order of their seeds, whatever their state."""
    ours: Figures | None
    """Of the runs that are done."""
    command: str | None
    """What fills it; None where there is a run, or where its step does not fit into the group's clips."""

    @property
    def status(self) -> Status:
        """`running` also where a run is stopped, not evaluated or damaged: begun, and no figure yet."""
        if self.ours is not None:
            return "done"
        return "running" if self.runs else "not run"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What our runs say of one claim, in points: percent of videos."""

    claim: Claim
    interval: Interval | None
    """None where a side has no figure."""

    @property
    def verdict(self) -> Verdict:
        """By where the 95 % interval lies; the paper has each difference above 0."""
        interval = self.interval
        if interval is None:
            return "not run"
        if interval.low is None or interval.high is None:
            return "unresolved"
        if interval.low > 0:
            return "confirmed"
        return "refuted" if interval.high < 0 else "unresolved"

    @property
    def remark(self) -> str | None:
        """Why there is no interval where there is a difference."""
        if self.interval is None or self.interval.low is not None:
            return None
        return f"{self.interval.groups} groups of test videos are too few for an interval (from {FEWEST_GROUPS} on)"


@dataclass(frozen=True, kw_only=True)
class Table:
    """One of the paper's tables."""

    number: int
    rows: tuple[TableRow, ...]
    differences: tuple[Difference, ...]

    @property
    def title(self) -> str:
        """What its rows differ in."""
        return f"table {self.number}: {TABLES[self.number]}"


@dataclass(frozen=True, kw_only=True)
class GroupTables:
    """Tables 2, 3 and 4 for runs that may be compared."""

    group: Group
    words: str
    """Settings that are not the default."""
    tables: tuple[Table, ...]
    filling: Filling

    @property
    def commands(self) -> dict[str, str]:
        """Label of each row without a run -> what fills it; a row of two tables once."""
        return {row.paper.key.label: row.command for table in self.tables for row in table.rows if row.command}

    @property
    def runs(self) -> list["FoundRun"]:
        """All of them, each once."""
        return list({run.path: run for table in self.tables for row in table.rows for run in row.runs}.values())

    @property
    def notes(self) -> list[str]:
        """What its figures may owe to recordings that stand on both sides."""
        return sorted({run.note for run in self.runs if run.note is not None})

    @property
    def is_empty(self) -> bool:
        """Whether no run is in it."""
        return not self.runs


@dataclass(frozen=True, kw_only=True)
class OtherRun:
    """A run that fills no row of the paper."""

    run: "FoundRun"
    words: str
    """Settings that are not the default."""
    ours: Figures | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Of one folder of runs."""

    runs: Path
    groups: tuple[GroupTables, ...]
    """At least one: with no run that fills a row, the paper's own, all of it not run."""
    other_runs: tuple[OtherRun, ...]
    broken: tuple["BrokenRun", ...]
    notes: tuple[str, ...]


def build_report(runs: Path, *, without: Collection[str] = ()) -> Report:
    """Read the runs and set them beside the paper's rows.

    Args:
        runs: folder of runs; where there is none, all rows are not run, and a note says so.
        without: names of folders in it to leave out.

    Raises:
        UsageError: `runs` is no folder, a name to leave out is not in it, or two runs fill one row with one seed.
    """
    if not runs.is_dir():
        if runs.exists() or without:
            raise UsageError(f"got --runs {runs}, expected a folder of runs: `resact train` makes one")
        return _arranged(runs, [], [], (), (f"there is no folder {runs} yet",))
    names = {entry.name for entry in runs.iterdir() if entry.is_dir()}
    if unknown := sorted(set(without) - names):
        raise UsageError(
            f"got --without {unknown[0]}, expected names of folders in {runs}: {', '.join(sorted(names)) or '(none)'}"
        )
    if not names:
        return _arranged(runs, [], [], (), (f"there is no run in {runs} yet",))
    from resact.train.report.found import find_runs  # brings torch, which takes seconds

    found, broken = find_runs(runs, without=without)
    return _arranged(runs, found, broken, names, ())


def _arranged(
    runs: Path,
    found: Sequence["FoundRun"],
    broken: Sequence["BrokenRun"],
    taken: Collection[str],
    notes: tuple[str, ...],
) -> Report:
    defaults = default_settings() | {"val_groups": 0} if found else {}  # 0 as in the paper
    keys = {row.key for row in PAPER_ROWS}
    others = [run for run in found if run.key not in keys]
    groups = []
    for group, members in _grouped([run for run in found if run.key in keys]).items() or [(Group(), [])]:
        record = members[0].record if members else None
        fill = filling(group, runs, taken, record)
        compared = _on_the_same_videos(members)
        groups.append(
            GroupTables(
                group=group,
                words=group.words(defaults),
                tables=tuple(_table(number, compared, fill) for number in TABLES),
                filling=fill,
            )
        )
    return Report(
        runs=runs,
        groups=tuple(groups),
        other_runs=tuple(OtherRun(run=run, words=run.group.words(defaults), ours=_figures([run])) for run in others),
        broken=tuple(broken),
        notes=notes,
    )


def _grouped(found: Iterable["FoundRun"]) -> dict[Group, list["FoundRun"]]:
    """Runs by what they have in common. 3D-ResNet50, which is dense always, goes with either kind of convolution."""
    groups: dict[Group, list[FoundRun]] = {}
    for run in found:
        groups.setdefault(run.group, []).append(run)
    for group in [group for group in groups if group.conv is None]:
        members = groups.pop(group)
        kinds = [_with_conv(group, kind) for kind in ("separable", "dense")]
        for partner in [kind for kind in kinds if kind in groups] or kinds[:1]:
            groups.setdefault(partner, []).extend(members)
    return groups


def _with_conv(group: Group, conv: str) -> Group:
    return replace(group, settings=tuple(sorted((dict(group.settings) | {"conv": conv}).items())))


def _on_the_same_videos(members: Sequence["FoundRun"]) -> list["FoundRun"]:
    """As they are; but one whose evaluation is of other videos than the first one's counts as evaluated otherwise."""
    first = next((run for run in members if run.evaluation is not None), None)
    if first is None:
        return list(members)
    assert first.evaluation is not None
    expected = first.evaluation.video_id, first.evaluation.cluster
    return [
        run
        if run.evaluation is None or (run.evaluation.video_id, run.evaluation.cluster) == expected
        else replace(
            run,
            state="evaluated otherwise",
            problem=f"evaluated on other videos than {first.path}",
            evaluation=None,
        )
        for run in members
    ]


def _table(number: int, members: Sequence["FoundRun"], fill: Filling) -> Table:
    rows = [row for row in PAPER_ROWS if row.table == number]
    filled = {row.key: _runs_of(row.key, members) for row in rows}
    return Table(
        number=number,
        rows=tuple(
            TableRow(
                paper=row,
                runs=tuple(filled[row.key]),
                ours=_figures(filled[row.key]),
                command=None if filled[row.key] else fill.command(row.variant),
            )
            for row in rows
        ),
        differences=tuple(
            Difference(claim=claim, interval=_interval(filled[claim.better], filled[claim.worse]))
            for claim in CLAIMS
            if claim.table == number
        ),
    )


def _runs_of(key: RowKey, members: Sequence["FoundRun"]) -> list["FoundRun"]:
    """The runs of a row, by seed.

    Raises:
        UsageError: two of them have figures for one seed.
    """
    runs = sorted((run for run in members if run.key == key), key=lambda run: run.record.config.seed)
    seeds = Counter(run.record.config.seed for run in runs if run.evaluation is not None)
    for seed, count in seeds.items():
        if count > 1:
            same = [run for run in runs if run.evaluation is not None and run.record.config.seed == seed]
            paths = ", ".join(run.path for run in same)
            raise UsageError(
                f"got {paths}, which are all {key.label} with seed {seed}, expected one of them: "
                f"leave one out, such as with --without {same[-1].folder.name}"
            )
    return runs


def _figures(runs: Sequence["FoundRun"]) -> Figures | None:
    done = [(run, run.evaluation) for run in runs if run.evaluation is not None]
    if not done:
        return None
    first = done[0][0]
    top1 = [evaluation.top1 for _, evaluation in done]
    top5 = [evaluation.top5 for _, evaluation in done if evaluation.top5 is not None]
    rates = [run.clips_per_second for run, _ in done if run.clips_per_second is not None]
    return Figures(
        top1=fmean(top1),
        top5=fmean(top5) if top5 else None,
        top1_spread=stdev(top1) if len(top1) > 1 else None,
        top5_spread=stdev(top5) if len(top5) > 1 else None,
        multiply_adds=first.cost.multiply_adds,
        parameters=first.cost.parameters,
        epochs=first.epoch,
        clips_per_second=fmean(rates) if rates else None,
        padded_share=fmean(run.record.padded_share for run, _ in done),
        seeds=tuple(run.record.config.seed for run, _ in done),
    )


def _interval(better: Sequence["FoundRun"], worse: Sequence["FoundRun"]) -> Interval | None:
    """Of the difference in top-1, in points."""
    sides = [[run.evaluation for run in side if run.evaluation is not None] for side in (better, worse)]
    if not all(sides):
        return None
    mean_better_V, mean_worse_V = (np.mean([evaluation.hits1 for evaluation in side], axis=0) for side in sides)
    return clustered_interval(100 * (mean_better_V - mean_worse_V), sides[0][0].cluster)
