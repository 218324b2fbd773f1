"""`predictions.npz`: the logits of each clip, from which figures are computed without the network.

Figures, other protocols (such as the maximum over views, or the mean of logits) and the fusion of two runs use this
file. Shapes: V videos, K views, C classes.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from resact.errors import DivergedError, RunError
from resact.train.runs.files.atomic_write import write_whole
from resact.train.runs.testing.metrics import Scores, measure, video_scores

PREDICTIONS = "predictions.npz"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Provenance of the logits."""

    run: str
    """Name of the run."""
    weights: Literal["last", "best"]
    weights_sha256: str
    """sha256 of the weights file, in hex."""
    epoch: int
    """Epochs that the weights were trained for."""
    epochs: int
    """Epochs that the run should have."""
    precision: str
    """`bfloat16` (autocast) or `float32`."""
    dataset: str
    store_fingerprint: str
    """Fingerprint of the store that the clips were read from."""
    codec: str
    """Codec of that store."""
    differs_from_training: dict[str, list[Any]]
    """Settings that differ -> value in the run's store and in this one; empty for the same store."""
    partial: str | None
    """What that store lacks of the data set, in words."""
    split: str
    membership: str
    """`test`, or `train`."""
    geometry: dict[str, Any]
    """Geometry of the clips: the fields of `ClipGeometry`."""
    padded_share: float
    """Share of the clips that are longer than their video."""
    compute_threads: int | None = None
    """Number of compute threads on the CPU, on which the logits' last bits depend; None if unknown."""
    ema: float | None = None
    """Decay, where the weights are their moving average (`--ema`); None: they are the weights themselves."""
    leak: str | None = None
    """Videos that stand on two sides of the split, as the store knew, in words; None for nothing, or not known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Logits of `views` clips per video, and the videos' labels, ids and groups.

    Raises:
        RunError: the arrays do not fit together.
        DivergedError: a logit is not finite.
    """

    logits: npt.NDArray[np.float32]
    """(V, K, C) finite logits, before the softmax."""
    starts: npt.NDArray[np.int64]
    """(V, K) first frame of each clip."""
    label: npt.NDArray[np.int64]
    """(V,) position of the video's class in `classes`."""
    video_id: npt.NDArray[np.str_]
    """(V,)"""
    group: npt.NDArray[np.str_]
    """(V,)"""
    classes: npt.NDArray[np.str_]
    """(C,)"""
    provenance: Provenance

    def __post_init__(self) -> None:
        sizes = dict(zip("VKC", self.logits.shape if self.logits.ndim == 3 else (0, 0, 0), strict=True))
        classes = sizes["C"]
        for name, (axes, kind) in _ARRAYS.items():
            array: npt.NDArray[Any] = getattr(self, name)
            shape = tuple(sizes[axis] for axis in axes)
            fits = np.issubdtype(array.dtype, kind) if kind is np.str_ else array.dtype == kind
            if array.shape != shape or 0 in shape or not fits:
                raise RunError(
                    f"predictions: {name} is {array.dtype} {array.shape}, expected {kind.__name__} {shape} "
                    "where logits are (videos, views, classes), none of them 0"
                )
        if self.label.min() < 0 or self.label.max() >= classes:
            raise RunError(f"predictions: labels {self.label.min()} to {self.label.max()} of {classes} classes")
        require_finite(self.logits, self.video_id.tolist())

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """(V, C) probabilities: each video's softmax, averaged over its views."""
        return video_scores(self.logits)

    @property
    def accuracy(self) -> Scores:
        """Top-1 and top-5 of videos and of clips, for each class too."""
        return measure(self.logits, self.label, self.classes.tolist())


def require_finite(logits_VKC: npt.NDArray[np.float32], video_id: Sequence[str]) -> None:
    """Refuse logits that are not finite.

    Raises:
        DivergedError: one is not finite.
    """
    if len(bad := np.flatnonzero(~np.isfinite(logits_VKC).all((1, 2)))):
        raise DivergedError(
            f"the network gives logits that are not finite, for {len(bad):,} of {len(logits_VKC):,} videos, such as "
            f"{video_id[bad[0]]!r}: its weights have diverged; train again with a smaller --lr"
        )


_ARRAYS: dict[str, tuple[str, Any]] = {
    "logits": ("VKC", np.float32),
    "starts": ("VK", np.int64),
    "label": ("V", np.int64),
    "video_id": ("V", np.str_),
    "group": ("V", np.str_),
    "classes": ("C", np.str_),
}
"""Array -> its axes and dtype."""

_DAMAGE = zipfile.BadZipFile, zlib.error, MemoryError  # the last where an array says that it is huge


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the file atomically; an existing file is replaced.

    Raises:
        RunWriteError: it could not be written.
    """
    buffer = io.BytesIO()
    provenance = json.dumps(asdict(predictions.provenance), sort_keys=True)
    np.savez(buffer, **{name: getattr(predictions, name) for name in _ARRAYS}, provenance=np.array(provenance))
    attempt = path.with_name(f".{uuid4().hex}.partial")  # evaluations may run side by side
    elsewhere = "or write it elsewhere with `resact evaluate ... --output FILE`"
    write_whole(path, buffer.getvalue(), attempt=attempt, what_next=elsewhere)


def read_predictions(path: Path) -> Predictions:
    """Read and validate predictions; nothing in the file is unpickled.

    Raises:
        RunError: no such file, or not a file of `write_predictions`.
    """
    run = path.parent
    try:
        arrays = _arrays(path)
        provenance = Provenance(**json.loads(str(arrays.pop("provenance"))))
        return Predictions(**arrays, provenance=provenance)
    except FileNotFoundError:
        raise RunError(f"no predictions at {path}: make them with `resact evaluate {run}`") from None
    except (OSError, RunError, ValueError, TypeError, KeyError, EOFError, RuntimeError, *_DAMAGE) as error:
        raise RunError(
            f"{path} is not what `resact evaluate` writes ({error}): make it again with `resact evaluate {run}`"
        ) from None


def _arrays(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:  # numpy would leave open what turns out to be no archive
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("one array, expected an archive of them")  # noqa: TRY004 - of the file, not of an argument
        expected = {*_ARRAYS, "provenance"}
        if set(loaded.files) != expected:
            raise ValueError(f"it holds {', '.join(sorted(loaded.files))}; expected {', '.join(sorted(expected))}")
        arrays = {name: loaded[name] for name in loaded.files}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is not an array")  # noqa: TRY004
    return arrays
