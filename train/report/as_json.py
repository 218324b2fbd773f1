"""The report as plain values, for scripts. docs/report.md has the keys."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from resact.train.report.figures import Figures, figures_of
from resact.train.report.group import Group
from resact.train.report.intervals import Interval
from resact.train.report.paired import Comparison
from resact.train.report.report import Difference, GroupTables, Report, Section, Table, TableRow
from resact.train.report.side_by_side import DataSet, Entry

if TYPE_CHECKING:
    from resact.train.report.read_runs import ReadRun


def plain_report(report: Report) -> dict[str, Any]:
    """`data_sets`, `comparison`, `tables` (one per group and number), `other_runs`, `broken` and `notes`."""
    return {
        "runs": str(report.runs),
        "data_sets": [
            _data_set(section, section.data_set) for section in report.sections if section.data_set is not None
        ],
        "comparison": None if report.comparison is None else _comparison(report.comparison),
        "tables": [_table(group, table) for group in report.groups for table in group.tables],
        "other_runs": [
            {**_group(run.group, run.notes), **run.key._asdict(), **_run(run), "ours": _figures(figures_of([run]))}
            for run in report.other_runs
        ],
        "broken": [asdict(run) for run in report.broken],
        "notes": list(report.notes),
    }


def json_text(report: Report) -> str:
    """The report as JSON, indented."""
    return json.dumps(plain_report(report), indent=1) + "\n"


def _data_set(section: Section, data_set: DataSet) -> dict[str, Any]:
    return {
        "dataset": data_set.group.dataset,
        "split": data_set.group.split,
        "partial": data_set.group.partial,
        "settings": data_set.settings,
        "notes": data_set.notes,
        "paper_applies": bool(section.tables),
        "rows": [_entry(entry) for entry in data_set.entries],
        "comparisons": [_comparison(comparison) for comparison in data_set.comparisons],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    limits, cost = _limits(entry.accuracy), entry.runs[0].cost
    return {
        "name": entry.name,
        **entry.key._asdict(),
        "settings": entry.apart,
        "state": entry.state,
        "top1_low": limits["low"],
        "top1_high": limits["high"],
        "groups": limits["groups"],
        "mean_class": entry.mean_class,
        "g": cost.multiply_adds / 1e9,
        "parameters": cost.parameters,
        "ours": _figures(entry.figures),
        "classes": [score._asdict() for score in entry.per_class],
        "runs": [_run(run) for run in entry.runs],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "first": comparison.first,
        "second": comparison.second,
        **_limits(comparison.interval),
        "p": comparison.p,
        "verdict": comparison.verdict,
        "only_first": list(comparison.only_first),
        "only_second": list(comparison.only_second),
        "classes": [{"class_name": name, "points": points} for name, points in comparison.classes],
    }


def _table(tables: GroupTables, table: Table) -> dict[str, Any]:
    return {
        "number": table.number,
        **_group(tables.group, tables.notes),
        "title": f"{table.title}; {tables.group.heading}",
        "rows": [_row(row) for row in table.rows],
        "differences": [_difference(difference) for difference in table.differences],
    }


def _group(group: Group, notes: list[str]) -> dict[str, Any]:
    return {
        "dataset": group.dataset,
        "split": group.split,
        "partial": group.partial,
        "settings": group.words,
        "notes": notes,
        "store": {"fingerprint": group.fingerprint, "contents": group.contents} if group.store else None,
    }


def _row(row: TableRow) -> dict[str, Any]:
    return {
        **row.paper.key._asdict(),
        "status": row.status,
        "paper": {"top1": row.paper.top1, "top5": row.paper.top5, "g": row.paper.variant.paper_g},
        "ours": _figures(row.ours),
        "runs": [_run(run) for run in row.runs],
        "command": row.command,
    }


def _figures(ours: Figures | None) -> dict[str, Any] | None:
    return None if ours is None else {**asdict(ours), "g": ours.g, "seeds": list(ours.seeds)}


def _run(run: "ReadRun") -> dict[str, Any]:
    evaluation = run.evaluation
    return {
        "run": run.path,
        "seed": run.record.config.seed,
        "state": run.state,
        "problem": run.problem,
        "epoch": run.epoch,
        "epochs": run.record.config.recipe.epochs,
        "earlier_epochs": list(run.record.earlier_epochs),
        "earlier_devices": [list(pair) for pair in run.record.earlier_devices],
        "top1": None if evaluation is None else evaluation.top1,
        "top5": None if evaluation is None else evaluation.top5,
        "next": run.next_command,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "claim": difference.claim.words,
        "better": difference.claim.better._asdict(),
        "worse": difference.claim.worse._asdict(),
        "paper_points": difference.claim.points,
        **_limits(difference.interval),
        "verdict": difference.verdict,
        "remark": difference.remark,
    }


def _limits(interval: Interval | None) -> dict[str, Any]:
    names = {"points": "mean", "low": "low", "high": "high", "groups": "groups"}
    return {key: None if interval is None else getattr(interval, name) for key, name in names.items()}
