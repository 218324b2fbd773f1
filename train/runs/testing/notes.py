"""What a reader of an evaluation's figures should know."""

from resact.cache.grouping import note_on_tests
from resact.cache.settings import DatasetSettings, setting_words
from resact.train.runs.testing.metrics import TOP
from resact.train.runs.testing.predictions import Predictions


def notes_on(predictions: Predictions, dataset: DatasetSettings) -> list[str]:
    """What keeps a figure from being the paper's protocol on the run's own store, or of the whole data set."""
    made, notes = predictions.provenance, []
    for key, (was, now) in made.differs_from_training.items():
        if key == "contents":
            notes.append("the store's videos, or their bytes, have changed since the run was trained")
        else:
            notes.append(f"{setting_words(key)}: trained on {was}, evaluated on {now}")
    if made.partial:
        notes.append(made.partial)
    ids, groups = predictions.video_id.tolist(), predictions.group.tolist()
    if known := note_on_tests(ids, groups, dataset, partial=made.partial):
        notes.append(known)
    if len(predictions.classes) < TOP:
        notes.append(f"top-{TOP} means nothing with {len(predictions.classes)} classes")
    return notes
