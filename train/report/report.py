"""The report: the paper's tables with the runs that fill their rows, and what these say about the paper's claims."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from resact.errors import UsageError
from resact.train.report.commands import Filling, filling
from resact.train.report.figures import Figures, figures_of
from resact.train.report.group import Group
from resact.train.report.intervals import FEWEST_GROUPS, Interval, clustered_interval
from resact.train.report.paired import Comparison
from resact.train.report.paper import CLAIMS, DATASET, PAPER_ROWS, TABLES, Claim, PaperRow, RowKey
from resact.train.report.side_by_side import DataSet, asked_comparison, find_data_sets

if TYPE_CHECKING:
    from resact.train.report.read_runs import BrokenRun, ReadRun

Status = Literal["done", "begun", "not run"]
Verdict = Literal["confirmed", "refuted", "unresolved", "not run"]


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row of the paper with our runs."""

    paper: PaperRow
    runs: tuple["ReadRun", ...]
    """Runs in any state, ordered by seed."""
    command: str | None
    """The command that fills it; None if there is a run, or the step does not fit into the group's clips."""

    @cached_property
    def ours(self) -> Figures | None:
        """Figures of the finished runs."""
        return figures_of(self.runs)

    @property
    def status(self) -> Status:
        """`begun`: there are runs, in any state, but no figures yet."""
        if self.ours is not None:
            return "done"
        return "begun" if self.runs else "not run"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Our result for one claim, in percentage points of top-1."""

    claim: Claim
    interval: Interval | None
    """Our difference with its interval; None if a side has no figure."""

    @property
    def verdict(self) -> Verdict:
        """The verdict by the position of the 95 % interval; all the paper's differences are above 0."""
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
        """Why a difference has no interval."""
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
    tables: tuple[Table, ...]
    filling: Filling

    @property
    def commands(self) -> dict[str, str]:
        """Label of each row without a run -> the command that fills it; a row of two tables only once."""
        return {row.paper.key.label: row.command for table in self.tables for row in table.rows if row.command}

    @property
    def runs(self) -> list["ReadRun"]:
        """All runs in the tables, each once."""
        return list({run.path: run for table in self.tables for row in table.rows for run in row.runs}.values())

    @property
    def notes(self) -> list[str]:
        """Notes if recordings may be on both sides of the split."""
        return sorted({note for run in self.runs for note in run.notes})

    @property
    def is_empty(self) -> bool:
        """Whether it has no runs."""
        return not self.runs


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the report: runs with the same test videos, and the paper's tables if they apply."""

    data_set: DataSet | None
    """Runs side by side; None without runs: then there are only the tables."""
    groups: tuple[GroupTables, ...]
    """Groups of runs on the data set; or the paper's own group, without runs."""

    @property
    def group(self) -> Group:
        """The group of one of its runs; the paper's own without runs."""
        return self.data_set.group if self.data_set is not None else self.groups[0].group

    @property
    def tables(self) -> tuple[GroupTables, ...]:
        """The paper's tables next to runs on its data set; none for the user's own data sets."""
        return self.groups if self.group.dataset == DATASET else ()

    @property
    def begins_with_tables(self) -> bool:
        """Whether it is about the complete data set of the paper; otherwise the runs come first."""
        return self.group.dataset == DATASET and self.group.partial is None


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report on one folder of runs."""

    runs: Path
    groups: tuple[GroupTables, ...]
    """At least one group: if no run fills a row, the paper's own group, with all rows not run."""
    other_runs: tuple["ReadRun", ...]
    """Runs that fill no row of the paper."""
    sections: tuple[Section, ...]
    """At least one section, for people. `groups` and `other_runs` have the same contents for scripts."""
    comparison: Comparison | None
    """The comparison that was asked for."""
    broken: tuple["BrokenRun", ...]
    notes: tuple[str, ...]

    @property
    def has_tables(self) -> bool:
        """Whether the paper's tables are shown: not if all runs are on other data sets."""
        return any(section.tables for section in self.sections)


def build_report(runs: Path, *, without: Collection[str] = (), compare: Sequence[Sequence[str]] = ()) -> Report:
    """Read the runs, and compare them side by side and with the paper's rows.

    Args:
        runs: folder of runs; if it does not exist, all rows are "not run", and a note says so.
        without: names of folders in it to leave out.
        compare: two sides to compare, each the name of a run or of several seeds; empty for no comparison.

    Raises:
        UsageError: `runs` is not a folder, a name to leave out is not in it, two runs on the paper's data set fill the
            same row with the same seed, or two runs cannot be compared.
    """
    there = runs.is_dir()
    if not there and (runs.exists() or without or compare):
        raise UsageError(f"got --runs {runs}, expected a folder of runs: `resact train` makes one")
    names = {entry.name for entry in runs.iterdir() if entry.is_dir()} if there else set()
    if unknown := sorted(set(without) - names):
        raise UsageError(
            f"got --without {unknown[0]}, expected names of folders in {runs}: {', '.join(sorted(names)) or '(none)'}"
        )
    found: list[ReadRun] = []
    broken: list[BrokenRun] = []
    if names or compare:
        from resact.train.report.read_runs import read_runs  # loads torch, which takes seconds

        found, broken = read_runs(runs, without=without)
    missing = f"there is no run in {runs} yet" if there else f"there is no folder {runs} yet"
    groups = []
    for group, members in _grouped([run for run in found if run.fills_a_row]).items() or [(Group(), [])]:
        fill = filling(group, runs, names, members[0].record if members else None)
        compared = _on_the_same_videos(members)
        tables = tuple(_table(number, compared, fill, strict=group.dataset == DATASET) for number in TABLES)
        groups.append(GroupTables(group=group, tables=tables, filling=fill))
    return Report(
        runs=runs,
        groups=tuple(groups),
        sections=_sections(found, groups),
        comparison=asked_comparison(found, compare, runs) if compare else None,
        other_runs=tuple(run for run in found if not run.fills_a_row),
        broken=tuple(broken),
        notes=() if names else (missing,),
    )


def _sections(found: Sequence["ReadRun"], groups: Sequence[GroupTables]) -> tuple[Section, ...]:
    if not found:
        return (Section(data_set=None, groups=tuple(groups)),)
    sections = []
    for data_set in find_data_sets(found):
        paths = {run.path for run in data_set.runs}
        own = [group for group in groups if group.runs and group.runs[0].path in paths]
        if data_set.group.dataset == DATASET and not own:
            own = [group for group in groups if group.is_empty]  # to show the rows that can be filled
        sections.append(Section(data_set=data_set, groups=tuple(own)))
    return tuple(sections)


def _grouped(found: Iterable["ReadRun"]) -> dict[Group, list["ReadRun"]]:
    """Runs by group. 3D-ResNet50, which is always dense, belongs to the groups of either kind of convolution."""
    groups: dict[Group, list[ReadRun]] = {}
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


def _on_the_same_videos(members: Sequence["ReadRun"]) -> list["ReadRun"]:
    """The runs; those that were evaluated on other videos than the first count as evaluated otherwise."""
    first = next((run for run in members if run.evaluation is not None), None)
    if first is None:
        return list(members)
    expected = first.tested.video_id, first.tested.cluster
    problem = f"evaluated on different videos from {first.path}"
    return [
        run
        if run.evaluation is None or (run.evaluation.video_id, run.evaluation.cluster) == expected
        else replace(run, state="evaluated otherwise", problem=problem, evaluation=None)
        for run in members
    ]


def _table(number: int, members: Sequence["ReadRun"], fill: Filling, *, strict: bool) -> Table:
    rows = [row for row in PAPER_ROWS if row.table == number]
    filled = {row.key: _runs_of(row.key, members, strict=strict) for row in rows}
    return Table(
        number=number,
        rows=tuple(
            TableRow(
                paper=row,
                runs=tuple(filled[row.key]),
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


def _runs_of(key: RowKey, members: Sequence["ReadRun"], *, strict: bool) -> list["ReadRun"]:
    """The runs of a row, by seed.

    Raises:
        UsageError: `strict`, and two of them have figures for the same seed.
    """
    runs = sorted((run for run in members if run.key == key), key=lambda run: run.record.config.seed)
    if not strict:
        return runs
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


def _interval(better: Sequence["ReadRun"], worse: Sequence["ReadRun"]) -> Interval | None:
    """The difference in top-1, in points."""
    sides = [[run.evaluation for run in side if run.evaluation is not None] for side in (better, worse)]
    if not all(sides):
        return None
    mean_better_V, mean_worse_V = (np.mean([evaluation.hits1 for evaluation in side], axis=0) for side in sides)
    return clustered_interval(100 * (mean_better_V - mean_worse_V), sides[0][0].cluster)
