"""Test videos that a run got right and wrong, as strips of frames and residuals from its store."""

import base64
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg

from resact.cache.layout import printable
from resact.cache.store import ClipStore, open_store
from resact.errors import ResactError
from resact.train.clips.figure import Look, read_excerpt, strip_of
from resact.train.report.details import RESIDUAL, RGB, Detail
from resact.train.runs.files.record import StoreIdentity
from resact.train.runs.testing.metrics import ranking

_EACH = 4  # videos right, and as many wrong, of a run
_GAIN = 4.0
_QUALITY = 82


@dataclass(frozen=True, kw_only=True)
class Item:
    """One video."""

    video_id: str
    words: str
    right: bool
    jpeg: str
    """Base64."""
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Videos of at most two runs."""

    notes: tuple[str, ...]
    items: tuple[Item, ...]


def gallery(details: Sequence[Detail]) -> Gallery | None:
    """Of the first seed with RGB and with the residual at step 1, or of the first run where there is neither.

    The videos are drawn with a fixed seed, so that the same runs give the same page.
    """
    chosen = [next((d for d in details if d.run.key == key), None) for key in (RGB, RESIDUAL)]
    shown = [detail for detail in chosen if detail is not None] or list(details[:1])
    if not shown:
        return None
    identity = shown[0].run.record.store
    try:
        store = open_store(identity.path)
        if not StoreIdentity.of(store).same_as(identity):
            return Gallery(notes=(f"No pictures: {identity.path} is no longer the store of these runs.",), items=())
        items = [item for detail in shown for item in _items(detail, store)]
    except (ResactError, OSError) as error:
        return Gallery(notes=(f"No pictures: {printable(str(error))}",), items=())
    note = f"RGB above, residuals below, {_GAIN:g} times as bright as they are. Drawn at random, the same each time."
    return Gallery(notes=(note,), items=tuple(items))


def _items(detail: Detail, store: ClipStore) -> list[Item]:
    predictions = detail.predictions
    scores_VC = predictions.scores
    said_V = ranking(scores_VC)[:, 0]
    drawn = random.Random(0)
    videos = list(range(len(said_V)))
    drawn.shuffle(videos)
    look = Look(steps=(detail.run.key.step or 1,), frames=6, height=72, gain=_GAIN)
    items = []
    for right in (True, False):
        for video in [v for v in videos if (said_V[v] == predictions.label[v]) == right][:_EACH]:
            video_id, said = str(predictions.video_id[video]), int(said_V[video])
            excerpt = read_excerpt(store, store.index.row_of(video_id), look)
            if not excerpt.times:
                continue  # too short for one residual
            picture = np.ascontiguousarray(strip_of(excerpt, look))
            true, score = detail.classes[predictions.label[video]], 100 * scores_VC[video, said]
            verdict = f"({score:.0f} %)" if right else f"taken for {detail.classes[said]} ({score:.0f} %)"
            items.append(
                Item(
                    video_id=printable(video_id),
                    words=printable(f"by {detail.run.key.label}: {video_id}, {true} {verdict}"),
                    right=right,
                    jpeg=base64.b64encode(simplejpeg.encode_jpeg(picture, _QUALITY, "RGB", "444")).decode(),
                    width=picture.shape[1],
                    height=picture.shape[0],
                )
            )
    return items
