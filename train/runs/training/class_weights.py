"""Class weights of the loss. Shapes: C classes."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resact.cache.index import Index
from resact.cache.names import first_of
from resact.errors import UsageError
from resact.train.runs.files.config import BALANCED, Recipe

_COLUMNS = ("class", "weight")
_UNEVEN = 5  # from so many times the videos on, a large class drowns a small one


def class_weights(recipe: Recipe, index: Index, train_videos: npt.NDArray[np.intp]) -> tuple[float, ...] | None:
    """(C,) factor of each class's losses; None if all classes have the same weight.

    Only their ratios matter: they are scaled so that their mean over an epoch's clips is 1, and the learning rate has
    the same meaning with and without them. `balanced` is N / (C n) for a class of n of the N training videos.

    Args:
        recipe: recipe of the run.
        index: of the store.
        train_videos: videos that the run trains on; each class has at least one.

    Raises:
        UsageError: the file of weights is missing, not of its form, or has other classes.
    """
    if recipe.class_weights is None:
        return None
    videos_C = np.bincount(index.label[train_videos], minlength=len(index.classes))
    if recipe.class_weights == BALANCED:
        weight_C = 1 / videos_C
    else:
        weight_of = _read(Path(recipe.class_weights))
        _require_classes(recipe.class_weights, weight_of, index.classes)
        weight_C = np.array([weight_of[name] for name in index.classes])
    clips_C = np.ones(len(videos_C)) if recipe.sampling == BALANCED else videos_C
    return tuple((weight_C * clips_C.sum() / (weight_C * clips_C).sum()).tolist())


def imbalance(recipe: Recipe, index: Index, train_videos: npt.NDArray[np.intp]) -> str | None:
    """A note if class sizes differ much and the recipe does not compensate; None otherwise."""
    videos_C = np.bincount(index.label[train_videos], minlength=len(index.classes))
    fewest, most = int(videos_C.argmin()), int(videos_C.argmax())
    if recipe.class_weights or recipe.sampling == BALANCED or videos_C[most] < _UNEVEN * videos_C[fewest]:
        return None
    return (
        f"classes have {videos_C[fewest]:,} ({index.classes[fewest]}) to {videos_C[most]:,} ({index.classes[most]}) "
        f"training videos: --sampling {BALANCED} or --class-weights {BALANCED} gives them the same weight"
    )


def _read(path: Path) -> dict[str, float]:
    """Class -> weight."""
    if not path.is_file():
        raise UsageError(
            f"got --class-weights {path}, which is no file, expected {BALANCED} or a CSV with the columns class,weight"
        )
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV in UTF-8 ({error}), expected the columns class,weight") from None
    columns = tuple(column.strip().lower() for column in lines[0]) if lines else ()
    if sorted(columns) != sorted(_COLUMNS):
        raise UsageError(f"{path}, line 1: got {','.join(columns)!r}, expected the columns class,weight")
    weights: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(columns):
            raise UsageError(f"{path}, line {number}: got {len(line)} fields, expected 2, such as Walk,1.5")
        values = dict(zip(columns, line, strict=True))
        name, weight = values["class"].strip(), _number(values["weight"])
        if not 0 < weight < math.inf:
            raise UsageError(f"{path}, line {number}: got weight {values['weight']!r}, expected a number above 0")
        if name in weights:
            raise UsageError(f"{path}, line {number}: {name!r} has a weight already: keep one of the lines")
        weights[name] = weight
    return weights


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _require_classes(path: str, weights: Mapping[str, float], classes: tuple[str, ...]) -> None:
    unknown = [name for name in weights if name not in classes]
    missing = [name for name in classes if name not in weights]
    if unknown:
        raise UsageError(f"{path}: the store has no class {first_of(unknown)}, expected {first_of(classes)}")
    if missing:
        raise UsageError(f"{path}: got no weight for {first_of(missing)}: write a line for each of the store's classes")
