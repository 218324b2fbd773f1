"""The training loop. Every step is a pure function of the state before it; see `checkpoint`."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resact.errors import CheckpointError, DivergedError, Interrupted
from resact.train.clips.mixing import mix_batch
from resact.train.clips.sampling import batches
from resact.train.clips.stream import ClipStream
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.checkpoint import Checkpoints, EpochSums, Progress
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder, WeightsHeader
from resact.train.runs.files.history import History
from resact.train.runs.files.record import RunRecord
from resact.train.runs.training.display import TrainDisplay
from resact.train.runs.training.optimiser import learning_rate
from resact.train.runs.training.step import TrainStep
from resact.train.runs.training.stopping import StopWish
from resact.train.runs.training.validation import validate
from resact.train.runs.training.weight_average import WeightAverage


@dataclass(kw_only=True)
class Throughput:
    """Throughput of this process, without earlier processes of a resumed run and without validation."""

    clips: int = 0
    """Clips on all devices."""
    seconds: float = 0.0
    wait_seconds: float = 0.0
    """Seconds of these spent waiting for data."""


@dataclass(kw_only=True)
class _Step:
    """A step whose figures are still on their way from the device."""

    epoch: int
    number: int
    """Counted from 1."""
    positions: range
    """Of the step's clips on all devices."""
    lr: float
    seconds: float
    wait_seconds: float
    figures: Tensor
    """(2,) sum of the clips' losses, clips whose class scores highest; on the CPU once `copied` has come to pass."""
    copied: torch.cuda.Event | None


@dataclass(kw_only=True, eq=False)
class Loop:
    """Trains one network to the end of its last epoch, or until it is told to stop."""

    config: RunConfig
    """Complete config, without automatic choices left."""
    record: RunRecord
    folder: RunFolder
    """The run's folder, locked by this process; the leading rank writes there."""
    network: nn.Module
    """The network on the ranks' device."""
    optimiser: torch.optim.Optimizer
    average: WeightAverage | None
    """Mean of the network's weights, if that is validated and saved."""
    progress: Progress
    stream: ClipStream
    """This rank's part of the training clips."""
    validation: ClipStream | None
    """This rank's part of the held-out clips, if there are any."""
    ranks: Ranks
    display: TrainDisplay
    history: History | None
    """The history on the leading rank; None on the others."""
    wish: StopWish
    checkpoint_seconds: float
    """Time between checkpoints; one is also written after each epoch."""
    throughput: Throughput = field(init=False, default_factory=Throughput)

    def __post_init__(self) -> None:
        self._recipe = self.config.recipe
        self._kept = self.network if self.average is None else self.average.network
        self._checkpoints, self._saved = Checkpoints(self.folder.path), time.monotonic()
        weights = self.record.class_weights
        self._step = TrainStep(self.config, self.network, self.optimiser, self.ranks, class_weights=weights)
        self._pending: _Step | None = None

    def run(self) -> None:
        """Train.

        Raises:
            Interrupted: stopped on request, after a checkpoint.
            DivergedError: a step's loss is not finite; checkpoints are from before it.
        """
        self.wish.can_wait = True
        progress = self.progress
        while progress.epoch < self._recipe.epochs:
            if progress.position < len(self.stream.plan):
                self._train_epoch()
            self._end_epoch()
        if self.ranks.leads and not self.throughput.clips:
            self._mend_weights()

    def _train_epoch(self) -> None:
        progress, stream = self.progress, self.stream
        begin, waited = time.perf_counter(), 0.0
        steps = batches(len(stream.plan), self._recipe.batch_size, position=progress.position)  # of all ranks together
        with stream.epoch(progress.epoch, position=progress.position) as reader:
            for positions, batch in zip(steps, reader, strict=True):
                lr = learning_rate(
                    self._recipe,
                    progress.step,
                    epoch_steps=len(stream),
                    earlier_epochs=self.record.earlier_epochs,
                )
                seed = dropout_seed(self.config.seed, progress.step, self.ranks.rank)
                mixed = self._mixed(batch, progress.epoch)
                figures = self._step(mixed, clips=len(positions), lr=lr, seed=seed)
                now, wait = time.perf_counter(), reader.wait_seconds
                self._settle()
                self._pending = _Step(
                    epoch=progress.epoch,
                    number=progress.step + 1,
                    positions=positions,
                    lr=lr,
                    seconds=now - begin,
                    wait_seconds=wait - waited,
                    figures=self.ranks.sum(figures).to("cpu", non_blocking=True),
                    copied=_recorded(figures.device),
                )
                if self.average is not None:
                    self.average.update(self.network, progress.step)
                begin, waited = now, wait
                progress.step += 1
                progress.position = positions.stop
                self._stop_if_wished()
                if self.ranks.leads and time.monotonic() - self._saved >= self.checkpoint_seconds:
                    self._save()
        self._settle()

    def _mixed(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        return mix_batch(
            batch,
            self.stream.plan.geometry.streams,
            seed=self.config.seed,
            epoch=epoch,
            mixup=self._recipe.mixup,
            drop_modality=self._recipe.drop_modality,
        )

    def _settle(self) -> None:
        """Take note of the pending step, one step later than it was begun, so that the device never idles for it."""
        step, self._pending = self._pending, None
        if step is None:
            return
        if step.copied is not None:
            step.copied.synchronize()
        loss, hits = step.figures.tolist()
        if not math.isfinite(loss):
            raise self._diverged(step, loss)
        sums, clips = self.progress.sums, len(step.positions)
        sums.loss, sums.hits, sums.clips = sums.loss + loss, sums.hits + round(hits), sums.clips + clips
        self.throughput.clips += clips
        self.throughput.seconds += step.seconds
        self.throughput.wait_seconds += step.wait_seconds
        times = {"seconds": step.seconds, "wait_seconds": step.wait_seconds}
        if self.history is not None:
            figures = {"loss": loss / clips, "top1": hits / clips, "lr": step.lr, "clips": clips}
            self.history.add("step", epoch=step.epoch, step=step.number, **figures, **times)
        mean = {"loss": sums.loss / sums.clips, "top1": sums.hits / sums.clips}
        self.display.step(epoch=step.epoch, step=step.number, clips=clips, **mean, **times)

    def _diverged(self, step: _Step, loss: float) -> DivergedError:
        index, plan = self.stream.store.index, self.stream.plan
        clips = [plan.clip(step.epoch, position) for position in step.positions]
        named = ", ".join(f"{index.video_id[clip.video_index]} from frame {clip.start}" for clip in clips)
        return DivergedError(
            f"{self.folder}: the loss is {loss} at step {step.number:,} (epoch {step.epoch + 1}, learning rate "
            f"{step.lr:.6g}); the step's clips: {named}. Checkpoints are from before it: train again with a smaller "
            "--lr, more --warmup-epochs, or --clip-norm"
        )

    def _end_epoch(self) -> None:
        """Validate, and keep the weights."""
        progress, result = self.progress, None
        if self.validation is not None:
            result = validate(self._kept, self.validation, self.ranks, config=self.config, stopping=self._wished)
            if result is None:
                self._stop_if_wished()
        sums = progress.sums
        figures = {"loss": sums.loss / sums.clips, "top1": sums.hits / sums.clips}
        progress.epoch, progress.position, progress.sums = progress.epoch + 1, 0, EpochSums()
        if result is not None:
            figures |= {"val_video_top1": result.video_top1, "val_clip_top1": result.clip_top1}
            progress.val_video_top1 = result.video_top1
        best = -1.0 if progress.best_video_top1 is None else progress.best_video_top1
        better = self.record.choose_best and result is not None and result.video_top1 > best
        if better:
            progress.best_epoch, progress.best_video_top1 = progress.epoch, progress.val_video_top1
        if self.ranks.leads:
            assert self.history is not None
            self.history.add("epoch", epoch=progress.epoch - 1, step=progress.step, **figures)
            for which in ("last", "best") if better else ("last",):
                self.folder.write_weights(which, self._kept, self._weights_header())
            self._save()
        if result is not None:
            self.display.say(
                f"epoch {progress.epoch}: loss {figures['loss']:.3f}, training top-1 {100 * figures['top1']:.1f} %, "
                f"validation top-1 {100 * result.video_top1:.1f} % of {result.videos:,} videos"
            )

    def _mend_weights(self) -> None:
        """Of a run that was done already: lost or damaged since, its last weights come back from the checkpoint."""
        try:
            self.folder.read_network()
        except CheckpointError as error:
            self.display.say(f"{error}: done now")
            self.folder.write_weights("last", self._kept, self._weights_header())

    def _weights_header(self) -> WeightsHeader:
        progress = self.progress
        return WeightsHeader(
            epoch=progress.epoch,
            epochs=self._recipe.epochs,
            step=progress.step,
            val_video_top1=progress.val_video_top1,
        )

    def _save(self) -> None:
        self._settle()  # so that no checkpoint has weights of a loss that was no number
        assert self.history is not None
        self.history.sync()
        average = None if self.average is None else self.average.network
        self._checkpoints.save(self.progress, self.network, self.optimiser, average)
        self._saved = time.monotonic()

    def _wished(self) -> bool:
        return self.ranks.any(self.wish.asked)

    def _stop_if_wished(self) -> None:
        """Each rank comes by here after each step, so that all stop after the same one."""
        if not self._wished():
            return
        self._settle()
        if self.ranks.leads:
            self._save()
        cause = "stopped" if self.wish.signal is None else f"{self.wish.signal.name}: stopped"
        raise Interrupted(
            f"{cause} after step {self.progress.step:,}, everything is saved: continue with "
            f"`{self.folder.resume_command(self.ranks.world_size, self.ranks.hosts)}`"
        )


def _recorded(device: torch.device) -> torch.cuda.Event | None:
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generator for a step, counted from 0."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
