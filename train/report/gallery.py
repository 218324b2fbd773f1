"""Correctly and wrongly classified test videos, as strips of frames and residuals from the run's store."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from resact.cache.layout import printable
from resact.cache.store import ClipStore, open_store
from resact.errors import ResactError
from resact.train.clips.figure import Excerpt, Look, Picture, read_excerpt, strip_of, visible_gain
from resact.train.report.details import RESIDUAL, RGB, Detail
from resact.train.runs.files.record import StoreIdentity
from resact.train.runs.testing.metrics import ranking

_EACH = 4  # correct videos of a run, and as many wrong ones
_SHOWN_RUNS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One video."""

    video_id: str
    words: str
    right: bool
    picture: Picture


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Videos of at most two runs."""

    note: str
    items: tuple[Item, ...] = ()


def gallery(details: Sequence[Detail]) -> Gallery | None:
    """Videos of the first seed with RGB and with the residual at step 1, or of the first two runs if one is missing.

    The videos are drawn with a fixed seed, so the same runs give the same page.
    """
    chosen = [next((d for d in details if d.run.key == key), None) for key in (RGB, RESIDUAL)]
    both = [detail for detail in chosen if detail is not None]
    shown = both if len(both) == len(chosen) else list(details[:_SHOWN_RUNS])
    if not shown:
        return None
    identity = shown[0].run.record.store
    try:
        store = open_store(identity.path)
        if not StoreIdentity.of(store).same_as(identity):
            return Gallery(note=f"No pictures: {identity.path} is no longer the store of these runs.")
        drawn = [(detail, video, excerpt) for detail in shown for video, excerpt in _excerpts(detail, store)]
    except (ResactError, OSError) as error:
        return Gallery(note=f"No pictures: {printable(str(error))}")
    gain = visible_gain((excerpt, _look(detail).steps) for detail, _, excerpt in drawn)
    note = f"RGB above, residuals below, {gain:g} times as bright as they are. Drawn at random, the same each time."
    return Gallery(note=note, items=tuple(_item(*one, gain) for one in drawn))


def _look(detail: Detail, gain: float = 1) -> Look:
    return Look(steps=(detail.run.key.step or 1,), frames=6, height=72, gain=gain)


def _excerpts(detail: Detail, store: ClipStore) -> Iterator[tuple[int, Excerpt]]:
    """Position of each shown video in the predictions, and its frames; correct videos come first."""
    right_V = ranking(detail.predictions.scores)[:, 0] == detail.predictions.label
    videos = list(range(len(right_V)))
    random.Random(0).shuffle(videos)
    for right in (True, False):
        for video in [v for v in videos if right_V[v] == right][:_EACH]:
            row = store.index.video_index(str(detail.predictions.video_id[video]))
            excerpt = read_excerpt(store, row, _look(detail))
            if excerpt.times:  # else it is too short for a residual
                yield video, excerpt


def _item(detail: Detail, video: int, excerpt: Excerpt, gain: float) -> Item:
    predictions = detail.predictions
    scores_C = predictions.scores[video]
    said = int(ranking(scores_C[None])[0, 0])
    right = said == predictions.label[video]
    true, score = detail.classes[predictions.label[video]], 100 * scores_C[said]
    verdict = f"({score:.0f} %)" if right else f"classified as {detail.classes[said]} ({score:.0f} %)"
    return Item(
        video_id=printable(excerpt.video_id),
        words=printable(f"by {detail.run.folder.name}: {excerpt.video_id}, {true} {verdict}"),
        right=right,
        picture=strip_of(excerpt, _look(detail, gain)),
    )
