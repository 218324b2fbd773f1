"""The report as plain values, for scripts. docs/report.md has the keys."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from resact.train.report.group import Group
from resact.train.report.report import Difference, Figures, GroupTables, Report, Table, TableRow

if TYPE_CHECKING:
    from resact.train.report.found import FoundRun


def plain_report(report: Report) -> dict[str, Any]:
    """`tables`, one a group and number; `other_runs`; `broken`; `notes`."""
    return {
        "runs": str(report.runs),
        "tables": [_table(group, table) for group in report.groups for table in group.tables],
        "other_runs": [
            {
                **_group(other.run.group, other.words, [other.run.note] if other.run.note else []),
                **other.run.key._asdict(),
                **_run(other.run),
                "ours": _figures(other.ours),
            }
            for other in report.other_runs
        ],
        "broken": [asdict(run) for run in report.broken],
        "notes": list(report.notes),
    }


def _table(tables: GroupTables, table: Table) -> dict[str, Any]:
    return {
        "number": table.number,
        **_group(tables.group, tables.words, tables.notes),
        "title": f"{table.title}; {tables.group.heading}",
        "rows": [_row(row) for row in table.rows],
        "differences": [_difference(difference) for difference in table.differences],
        "settings_file": tables.filling.file_text,
    }


def _group(group: Group, words: str, notes: list[str]) -> dict[str, Any]:
    return {
        "dataset": group.dataset,
        "split": group.split,
        "partial": group.partial,
        "settings": words,
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


def _run(run: "FoundRun") -> dict[str, Any]:
    evaluation = run.evaluation
    return {
        "run": run.path,
        "seed": run.record.config.seed,
        "state": run.state,
        "problem": run.problem,
        "epoch": run.epoch,
        "epochs": run.record.config.recipe.epochs,
        "earlier_epochs": list(run.record.earlier_epochs),
        "top1": None if evaluation is None else evaluation.top1,
        "top5": None if evaluation is None else evaluation.top5,
        "next": run.next_command,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    interval = difference.interval
    return {
        "claim": difference.claim.words,
        "better": difference.claim.better._asdict(),
        "worse": difference.claim.worse._asdict(),
        "paper_points": difference.claim.points,
        "points": None if interval is None else interval.mean,
        "low": None if interval is None else interval.low,
        "high": None if interval is None else interval.high,
        "groups": None if interval is None else interval.groups,
        "verdict": difference.verdict,
        "remark": difference.remark,
    }
