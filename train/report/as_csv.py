"""The report as comma-separated values: one line a row of a table, a difference, or another run, told by `kind`."""

import csv
import io
from typing import Any

from resact.cache.layout import printable
from resact.train.report.as_json import plain_report
from resact.train.report.cells import one_line
from resact.train.report.report import Report

FIELDS = (
    "kind", "table", "dataset", "split", "partial", "settings", "store", "network", "modality", "step", "attention",
    "feature_residual", "status", "paper_top1", "paper_top5", "paper_g", "top1", "top5", "top1_spread", "top5_spread",
    "g", "parameters", "epochs", "clips_per_second", "padded_share", "seeds", "runs", "command", "notes", "claim",
    "points", "paper_points", "low", "high", "groups", "verdict",
)  # fmt: skip
"""The last seven are of differences, and empty in other lines, as the others' own are in those of differences."""

_SHARED = ("dataset", "split", "partial", "settings")
_FIGURES = (
    "top1", "top5", "top1_spread", "top5_spread", "g", "parameters", "epochs", "clips_per_second", "padded_share",
)  # fmt: skip


def comma_separated(report: Report) -> str:
    """With a line of headings; numbers as they are, accuracies in percent."""
    plain, text = plain_report(report), io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for table in plain["tables"]:
        shared = {"table": table["number"], **_shared(table)}
        for row in table["rows"]:
            writer.writerow({"kind": "row", **shared, **_row(row)})
        for difference in table["differences"]:
            writer.writerow({"kind": "difference", **shared, **difference})
    for other in plain["other_runs"]:
        writer.writerow({"kind": "other", **_row(other), **_shared(other)})
    return text.getvalue()


def _shared(part: dict[str, Any]) -> dict[str, Any]:
    store = part["store"] or {"fingerprint": "", "contents": ""}
    words = {name: part[name] and one_line(part[name]) for name in _SHARED}
    words["notes"] = one_line("; ".join(part["notes"]))
    return {**words, "store": ":".join(filter(None, store.values()))}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    ours = row["ours"] or {}
    figures = {name: ours.get(name) for name in _FIGURES}
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
