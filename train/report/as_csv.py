"""The report as comma-separated values, each line of one `kind`.

`run`: a row of the runs side by side; `comparison`: two of them compared. If the paper's tables apply, also `row`,
`difference` and `other`: a row of a table, a claim, and a run that fills no row.
"""

import csv
import io
from typing import Any

from resact.cache.layout import printable
from resact.train.report.as_json import plain_report
from resact.train.report.grids import one_line
from resact.train.report.paper import DATASET
from resact.train.report.report import Report

FIELDS = (
    "kind", "name", "table", "dataset", "split", "partial", "settings", "store", "network", "modality", "step",
    "attention", "feature_residual", "status", "paper_top1", "paper_top5", "paper_g", "top1", "top5", "top1_spread",
    "top5_spread", "g", "parameters", "epochs", "clips_per_second", "padded_share", "seeds", "runs", "command", "notes",
    "claim", "points", "paper_points", "low", "high", "groups", "verdict", "mean_class", "first", "second", "p",
)  # fmt: skip
"""Columns that a kind does not have are empty. `low` and `high` are limits of top-1 for runs, and of `points`
otherwise."""

_SHARED = ("dataset", "split", "partial", "settings")
_FIGURES = (
    "top1", "top5", "top1_spread", "top5_spread", "g", "parameters", "epochs", "clips_per_second", "padded_share",
)  # fmt: skip


def comma_separated(report: Report) -> str:
    """The report as CSV with a header line; numbers are unrounded, accuracies in percent."""
    plain, text = plain_report(report), io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    if plain["comparison"] is not None:
        writer.writerow({"kind": "comparison", **_comparison(plain["comparison"])})
    for part in plain["data_sets"]:
        shared = {name: part[name] and one_line(part[name]) for name in ("dataset", "split", "partial")}
        shared["notes"] = one_line("; ".join(part["notes"]))
        for entry in part["rows"]:
            limits = {"low": entry["top1_low"], "high": entry["top1_high"]}
            writer.writerow({"kind": "run", **shared, **_row(entry), **limits, "name": one_line(entry["name"])})
        for comparison in part["comparisons"]:
            writer.writerow({"kind": "comparison", **shared, **_comparison(comparison)})
    # What people do not see is not here either: the paper's rows beside other data sets.
    tables, others = (
        [part for part in plain[name] if report.has_tables and part["dataset"] == DATASET]
        for name in ("tables", "other_runs")
    )
    for table in tables:
        shared = {"table": table["number"], **_shared(table)}
        for row in table["rows"]:
            writer.writerow({"kind": "row", **shared, **_row(row)})
        for difference in table["differences"]:
            writer.writerow({"kind": "difference", **shared, **difference})
    for other in others:
        writer.writerow({"kind": "other", **_row(other), **_shared(other)})
    return text.getvalue()


def _comparison(comparison: dict[str, Any]) -> dict[str, Any]:
    return {**comparison, **{side: one_line(comparison[side]) for side in ("first", "second")}}


def _shared(part: dict[str, Any]) -> dict[str, Any]:
    store = part["store"] or {"fingerprint": "", "contents": ""}
    words = {name: part[name] and one_line(part[name]) for name in _SHARED}
    words["notes"] = one_line("; ".join(part["notes"]))
    return {**words, "store": ":".join(filter(None, store.values()))}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    ours = row["ours"] or {}
    figures = {name: ours[name] for name in _FIGURES if name in ours}
    paper = {f"paper_{name}": value for name, value in row.get("paper", {}).items()}
    runs = row.get("runs", [row])  # another run is one itself
    return {
        **row,
        **figures,
        **paper,
        "status": row.get("status") or row["state"],
        "command": printable(row.get("command") or ""),
        "seeds": " ".join(map(str, ours.get("seeds", ()))),
        "runs": " ".join(one_line(run["run"]) for run in runs),
    }
