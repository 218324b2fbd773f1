"""Tables of an evaluation's figures."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from resact.cache.layout import printable
from resact.train.runs.testing.metrics import TOP, Scores

_CONFUSIONS = 2  # classes named beside each class that is taken for them


def figures_table(rows: Sequence[tuple[str, Scores]]) -> Table:
    """The figures of each named row, in percent."""
    table = _table("", "video top-1", "mean\nclass", f"video top-{TOP}", "clip top-1", f"clip top-{TOP}")
    for name, scores in rows:
        figures = (scores.video_top1, scores.mean_class, scores.video_top5, scores.clip_top1, scores.clip_top5)
        table.add_row(printable(name), *map(percent, figures))
    return table


def classes_table(scores: Scores) -> Table:
    """Each class's video top-1, the worst first, and the classes that its wrong videos are confused with."""
    names = [row.class_name for row in scores.per_class]
    table = _table("class", "videos", "video top-1")
    table.add_column("most often classified as")
    places = range(len(names))
    for place in sorted(places, key=lambda place: _worst_first(scores.per_class[place].video_top1)):
        row, taken = scores.per_class[place], scores.confusion[place]
        others = sorted((other for other in places if other != place and taken[other]), key=lambda c: -taken[c])
        table.add_row(
            printable(row.class_name),
            f"{row.videos:,}",
            percent(row.video_top1),
            printable(", ".join(f"{names[other]} {taken[other]}" for other in others[:_CONFUSIONS])),
        )
    return table


def percent(fraction: float | None) -> str:
    """`83.05 %`, or a dash if there is no figure."""
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def _worst_first(top1: float | None) -> float:
    return 2.0 if top1 is None else top1


def _table(first: str, *figures: str) -> Table:
    table = Table(box=SIMPLE, collapse_padding=True, pad_edge=False, show_edge=False)
    table.add_column(first)
    for heading in figures:
        table.add_column(heading, justify="right")
    return table
