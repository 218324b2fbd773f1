"""The functions for scripts and notebooks, with one import: `stream`, `load_run`, `predict`, `evaluate`.

Shapes: B clips, N frames read for a clip, C classes, T frames of a clip, H height, W width, D height and width of the
network's input.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resact.cache.store import ClipStore, open_store
from resact.errors import RunNotFoundError, UsageError
from resact.pipeline.job.single_video import single_video_store
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.measurement import measure_normalisation
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.plain_transform import described
from resact.train.clips.sampling import ClipPlan, TestPlan, TrainPlan, centre_clip
from resact.train.clips.stream import ClipStream
from resact.train.clips.transform import make_clip
from resact.train.runs.execution import chosen_device
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.record import open_run_store
from resact.train.runs.testing.evaluate import VIEWS, evaluate_run
from resact.train.runs.testing.predict import Prediction, predict_video
from resact.train.runs.testing.predictions import Predictions, write_predictions
from resact.train.runs.testing.trained import TrainedRun, load_trained

StrPath = str | os.PathLike[str]


def stream(
    store: ClipStore | StrPath,
    *,
    split: str | None = None,
    side: Literal["train", "val", "test"] = "train",
    frames: int = 32,
    step: int = 1,
    modality: Literal["rgb", "residual", "both"] = "both",
    batch_size: int = 8,
    size: int = 112,
    views: int = VIEWS,
    seed: int = 0,
    flip: bool | None = None,
    normalisation: Normalisation | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
) -> ClipStream:
    """Batches of clips for any network, from one side of a split.

    Each loop over the stream is the next epoch; `stream.epoch(n)` reads a given one. A batch is a dictionary: `rgb` and
    `residual` (B, 3, T, D, D), normalised, as the modality asks; `label` (B,) int64; `video_id`, a list of length B.

    Args:
        store: an open store, or its path or URL.
        split: name of the split; default: the store's first.
        side: `train`: one random clip per video and epoch; `val` or `test`: `views` clips per video, centre crops.
        frames: T, frames per clip.
        step: residual step, in frames.
        modality: `rgb`, `residual` or `both`.
        batch_size: most clips per batch.
        size: D, height and width of a clip, in pixels.
        views: clips per video of the sides `val` and `test`.
        seed: seed of the clips.
        flip: mirror half of the training clips; default: if the data set is flip-safe.
        normalisation: for example another stream's or a run's. Default: measured on 512 clips of the train side, for
            any side, which takes a while; the result is `stream.normalisation`.
        device: default: the GPU if there is one, else the CPU.
        dtype: dtype of the clips.
        threads: number of threads that read and decode; default: one per core.

    Raises:
        UsageError: an argument is out of range, or the store has no such split, side or videos.
        StoreNotFoundError: no store at that path.
        StoreError: a clip could not be read; also raised while the stream is read.

    Example:
        train = resact.stream("data/sample.zarr", frames=16, batch_size=4)
        for batch in train:
            rgb_BCTHW, residual_BCTHW, label_B = batch["rgb"], batch["residual"], batch["label"]
        test = resact.stream("data/sample.zarr", side="test", frames=16, normalisation=train.normalisation)
    """
    opened = store if isinstance(store, ClipStore) else open_store(store)
    index, dataset = opened.index, opened.settings.dataset
    geometry = ClipGeometry(modality=modality, frames=frames, step=step, size=size)
    split = dataset.splits[0] if split is None else split
    video_indices = index.video_indices(split, side)
    plan: ClipPlan
    if side == "train":
        plan = TrainPlan(index, video_indices, geometry, seed=seed, flip=dataset.flip_safe if flip is None else flip)
    else:
        plan = TestPlan(index, video_indices, geometry, views=views)
    if normalisation is None:
        normalisation = measure_normalisation(
            opened, index.video_indices(split, "train"), geometry, seed=seed, threads=threads
        )
    return ClipStream(
        opened,
        plan,
        batch_size=batch_size,
        normalisation=normalisation,
        device=chosen_device(device),
        dtype=dtype,
        threads=threads,
    )


@dataclass(frozen=True, kw_only=True)
class Run(TrainedRun):
    """A trained run, opened by `load_run`; its network is on `device`, in evaluation mode."""

    def __repr__(self) -> str:
        """One line, where notebooks would show all of its settings and weights."""
        return (
            f"<Run {self.name}: {self.record.architecture.network}, {self.geometry.modality}, {len(self.classes)} "
            f"classes; {self.weights} weights, of epoch {self.header.epoch}; on {self.device}>"
        )

    def predict(
        self,
        video: StrPath,
        *,
        views: int = VIEWS,
        top: int = 5,
        ffmpeg: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> Prediction:
        """The most likely classes of a video file, decoded in the same way as the run's store.

        Args:
            video: the file; any that ffmpeg decodes.
            views: number of clips, spread uniformly over the video, whose probabilities are averaged.
            top: number of classes to return.
            ffmpeg: path of ffmpeg; None for the one of the `imageio-ffmpeg` wheel.
            timeout_seconds: time limit of decoding.

        Returns:
            `top`, a list of (class name, probability), the most likely first; `logits` (views, C); `num_frames`, at the
            store's frame rate; `padded`, whether a clip is longer than the video.

        Raises:
            DecodeError: the file is missing, gives no frames, or is too short, with the reason.
            DivergedError: the network's logits are not finite.

        Example:
            run = resact.load_run("runs/residual-s2-0")
            for class_name, probability in run.predict("my_video.mp4").top:
                print(f"{probability:6.1%}  {class_name}")
        """
        settings = self.record.store.settings
        with single_video_store(
            Path(video), settings.decode, codec=settings.codec, ffmpeg=ffmpeg, timeout_seconds=timeout_seconds
        ) as store:
            return predict_video(self, store, views=views, top=top)

    def batch(self, frames_NHWC: npt.NDArray[np.uint8] | Tensor) -> dict[str, Tensor]:
        """One clip of frames as a batch for `logits` and `features`: centre crop, resize, residual, normalisation.

        Args:
            frames_NHWC: uint8 (N, H, W, 3), RGB, at the frame rate of the run's store, for example from `store.read`. N
                is at most `run.geometry.frames_read`; fewer frames are extended like those of a short video.

        Returns:
            `rgb` and `residual` (1, 3, T, D, D) float32, as the run takes them, on its device.

        Raises:
            UsageError: the frames have another shape or dtype, or there are too many of them.

        Example:
            run = resact.load_run("runs/residual-s2-0")
            store = resact.open_store("data/sample.zarr")
            frames = store.read(store.index.video_id[0], 0, run.geometry.frames_read)
            logits_1C = run.logits(run.batch(frames))
        """
        frames = frames_NHWC
        if not isinstance(frames, Tensor):
            frames = torch.from_numpy(np.require(frames, requirements=["C", "W"]))
        most = self.geometry.frames_read
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != torch.uint8 or 0 in frames.shape:
            raise UsageError(f"got frames {described(frames)}, expected (N, H, W, 3) of uint8, RGB: one clip's")
        if len(frames) > most:
            raise UsageError(
                f"got {len(frames)} frames, expected at most the {most} of a clip of {self.name}: cut out a clip, or "
                "use `predict`, which takes several clips of the whole video"
            )
        height, width = frames.shape[1:3]
        clip = centre_clip(self.geometry, len(frames), height, width)
        made = make_clip(frames.cpu(), clip, self.geometry, self.normalisation)
        return {name: clip_CTHW[None].to(self.device) for name, clip_CTHW in made.items()}


def load_run(
    path: StrPath, *, weights: Literal["last", "best"] = "last", device: str | torch.device | None = None
) -> Run:
    """Open a trained run: its network, classes, clip geometry and normalisation. Nothing in its files is unpickled.

    Args:
        path: the run's folder, such as `runs/residual-s2-0`, or its name below `runs`; it may still be training.
        weights: `last`: after the last completed epoch; `best`: with the best validation accuracy.
        device: default: the GPU if there is one, else the CPU.

    Returns:
        A run with `predict(video)`, `batch(frames)`, `logits(batch)` (B, C), `features(batch)` (B, F), `classes`,
        `geometry`, `normalisation`, `network` and `record`.

    Raises:
        RunNotFoundError: no run at that path.
        CheckpointError: no such weights yet, or they have changed since they were written.

    Example:
        run = resact.load_run("runs/residual-s2-0")
        test = resact.stream("data/sample.zarr", side="test", modality=run.geometry.modality, step=run.geometry.step,
                             frames=run.geometry.frames, size=run.geometry.size, normalisation=run.normalisation)
        for batch in test:
            logits_BC, features_BF = run.logits(batch), run.features(batch)
            break
    """
    folder = next((there for there in map(RunFolder, (path, Path("runs") / path)) if there.exists), None)
    if folder is None:
        others = ", ".join(str(config.parent) for config in sorted(Path(path).parent.glob("*/config.json")))
        raise RunNotFoundError(
            f"no run at {path}: " + (f"there are {others}" if others else "make one with `resact train`")
        )
    if weights not in ("last", "best"):
        raise UsageError(f"got weights {weights!r}, expected last or best")
    return Run(**vars(load_trained(folder, weights=weights, device=device)))


def predict(run: Run | StrPath, video: StrPath, *, views: int = VIEWS, top: int = 5) -> Prediction:
    """The most likely classes of a video file; see `Run.predict`, which is faster for several files.

    Args:
        run: a run from `load_run`, or the path of a run's folder.
        video: the file; any that ffmpeg decodes.
        views: number of clips, spread uniformly over the video, whose probabilities are averaged.
        top: number of classes to return.

    Raises:
        RunNotFoundError: no run at that path.
        DecodeError: the file is missing, gives no frames, or is too short, with the reason.

    Example:
        class_name, probability = resact.predict("runs/residual-s2-0", "my_video.mp4").top[0]
    """
    return _opened(run).predict(video, views=views, top=top)


def evaluate(
    run: Run | StrPath,
    store: ClipStore | StrPath | None = None,
    *,
    views: int = VIEWS,
    side: Literal["train", "val", "test"] = "test",
    output: StrPath | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Test a run by the paper's protocol, as `resact evaluate` does: `views` clips per video, scores averaged.

    Args:
        run: a run from `load_run`, or the path of a run's folder.
        store: default: the store that the run was trained on; another one must be of the same data set.
        views: clips per video.
        side: side of the run's split.
        output: file for each clip's logits, such as `runs/NAME/predictions.npz`, which the report reads; default: none.
        threads: number of threads that read and decode; default: one per core.
        progress: called with the number of clips done and the total.

    Returns:
        `accuracy` with `video_top1`, `clip_top1`, `per_class` and so on, in [0, 1]; `logits` (videos, views, C);
        `scores` (videos, C); `label` (videos,); `video_id`; `classes`.

    Raises:
        RunNotFoundError: no run at that path.
        StoreNotFoundError: no store at that path, or the run's store has moved.
        SettingsError: the store has other videos, or was decoded in another way.
        DivergedError: the network's logits are not finite.
        RunWriteError: `output` could not be written.

    Example:
        tested = resact.evaluate("runs/residual-s2-0", views=3, output="runs/residual-s2-0/predictions.npz")
        print(f"{tested.accuracy.video_top1:.1%} of {len(tested.video_id)} videos")
    """
    opened = _opened(run)
    if store is None:
        tested = open_run_store(opened.record, opened.name)
    else:
        tested = store if isinstance(store, ClipStore) else open_store(store)
    predictions = evaluate_run(
        opened, tested, views=views, membership=side, other_codec=store is not None, threads=threads, progress=progress
    )
    if output is not None:
        write_predictions(Path(output), predictions)
    return predictions


def _opened(run: Run | StrPath) -> Run:
    return run if isinstance(run, Run) else load_run(run)
