"""The training loop. Every step is a pure function of the state before it; see `checkpoint`."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


class Loop:
    """Trains one network to the end of its last epoch, or until it is told to stop."""

    def __init__(
        self,
        *,
        config: RunConfig,
        folder: RunFolder,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        average: WeightAverage | None,
        progress: Progress,
        stream: ClipStream,
        validation: ClipStream | None,
        choose_best: bool,
        ranks: Ranks,
        display: TrainDisplay,
        history: History | None,
        wish: StopWish,
        checkpoint_seconds: float,
        earlier_epochs: Sequence[int] = (),
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Args:
        config: complete config, without automatic choices left.
        folder: locked by this process; the leading rank writes there.
        network: on the ranks' device.
        optimiser: its optimiser.
        average: mean of its weights, if that is validated and saved.
        progress: progress of the run.
        stream: this rank's part of the training clips.
        validation: this rank's part of the held-out clips, if there are any.
        choose_best: keep the weights with the best validation accuracy.
        ranks: the processes that train together.
        display: progress display.
        history: on the leading rank; None on the others.
        wish: wish to stop.
        checkpoint_seconds: time between checkpoints; one is also written after each epoch.
        earlier_epochs: as in `learning_rate`.
        class_weights: as in `TrainStep`.

        """
        self.throughput = Throughput()
        self._config, self._recipe, self._earlier_epochs = config, config.recipe, earlier_epochs
        self._folder, self._checkpoints = folder, Checkpoints(folder.path)
        self._network, self._optimiser, self._progress = network, optimiser, progress
        self._average, self._kept = average, network if average is None else average.network
        self._stream, self._validation, self._ranks = stream, validation, ranks
        self._choose_best = choose_best
        self._display, self._history, self._wish = display, history, wish
        self._checkpoint_seconds, self._saved = checkpoint_seconds, time.monotonic()
        self._step = TrainStep(config, network, optimiser, ranks, class_weights=class_weights)
        self._pending: _Step | None = None

    def run(self) -> None:
        """Train.

        Raises:
            Interrupted: stopped on request, after a checkpoint.
            DivergedError: a step's loss is not finite; checkpoints are from before it.
        """
        progress = self._progress
        while progress.epoch < self._recipe.epochs:
            if progress.position < len(self._stream.plan):
                self._train_epoch()
            self._end_epoch()
        if self._ranks.leads and not self.throughput.clips:
            self._mend_weights()

    def _train_epoch(self) -> None:
        progress, stream = self._progress, self._stream
        begin, waited = time.perf_counter(), 0.0
        with stream.epoch(progress.epoch, position=progress.position) as reader:
            for positions, batch in zip(self._steps(), reader, strict=True):
                lr = self._learning_rate()
                seed = dropout_seed(self._config.seed, progress.step, self._ranks.rank)
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
                    figures=self._ranks.sum(figures).to("cpu", non_blocking=True),
                    copied=_recorded(figures.device),
                )
                if self._average is not None:
                    self._average.update(self._network, progress.step)
                begin, waited = now, wait
                progress.step += 1
                progress.position = positions.stop
                self._stop_if_wished()
                if self._ranks.leads and time.monotonic() - self._saved >= self._checkpoint_seconds:
                    self._save()
        self._settle()

    def _mixed(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        return mix_batch(
            batch,
            self._stream.plan.geometry.streams,
            seed=self._config.seed,
            epoch=epoch,
            mixup=self._recipe.mixup,
            drop_modality=self._recipe.drop_modality,
        )

    def _learning_rate(self) -> float:
        return learning_rate(
            self._recipe,
            self._progress.step,
            epoch_steps=len(self._stream),
            earlier_epochs=self._earlier_epochs,
        )

    def _steps(self) -> Iterator[range]:
        """The positions of each remaining step's clips, on all ranks together."""
        return batches(len(self._stream.plan), self._recipe.batch_size, position=self._progress.position)

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
        sums, clips = self._progress.sums, len(step.positions)
        sums.loss, sums.hits, sums.clips = sums.loss + loss, sums.hits + round(hits), sums.clips + clips
        self.throughput.clips += clips
        self.throughput.seconds += step.seconds
        self.throughput.wait_seconds += step.wait_seconds
        times = {"seconds": step.seconds, "wait_seconds": step.wait_seconds}
        if self._history is not None:
            figures = {"loss": loss / clips, "top1": hits / clips, "lr": step.lr, "clips": clips}
            self._history.add("step", epoch=step.epoch, step=step.number, **figures, **times)
        mean = {"loss": sums.loss / sums.clips, "top1": sums.hits / sums.clips}
        self._display.step(epoch=step.epoch, step=step.number, clips=clips, **mean, **times)

    def _diverged(self, step: _Step, loss: float) -> DivergedError:
        index, plan = self._stream.store.index, self._stream.plan
        clips = [plan.clip(step.epoch, position) for position in step.positions]
        named = ", ".join(f"{index.video_id[clip.video_index]} from frame {clip.start}" for clip in clips)
        return DivergedError(
            f"{self._folder}: the loss is {loss} at step {step.number:,} (epoch {step.epoch + 1}, learning rate "
            f"{step.lr:.6g}); the step's clips: {named}. Checkpoints are from before it: train again with a smaller "
            "--lr, more --warmup-epochs, or --clip-norm"
        )

    def _end_epoch(self) -> None:
        """Validate, and keep the weights."""
        progress, result = self._progress, None
        if self._validation is not None:
            result = validate(self._kept, self._validation, self._ranks, config=self._config, stopping=self._wished)
            if result is None:
                self._stop_if_wished()
        sums = progress.sums
        figures = {"loss": sums.loss / sums.clips, "top1": sums.hits / sums.clips}
        progress.epoch, progress.position, progress.sums = progress.epoch + 1, 0, EpochSums()
        if result is not None:
            figures |= {"val_video_top1": result.video_top1, "val_clip_top1": result.clip_top1}
            progress.val_video_top1 = result.video_top1
        best = -1.0 if progress.best_video_top1 is None else progress.best_video_top1
        better = self._choose_best and result is not None and result.video_top1 > best
        if better:
            progress.best_epoch, progress.best_video_top1 = progress.epoch, progress.val_video_top1
        if self._ranks.leads:
            assert self._history is not None
            self._history.add("epoch", epoch=progress.epoch - 1, step=progress.step, **figures)
            for which in ("last", "best") if better else ("last",):
                self._folder.write_weights(which, self._kept, self._weights_header())
            self._save()
        if result is not None:
            self._display.say(
                f"epoch {progress.epoch}: loss {figures['loss']:.3f}, training top-1 {100 * figures['top1']:.1f} %, "
                f"validation top-1 {100 * result.video_top1:.1f} % of {result.videos:,} videos"
            )

    def _mend_weights(self) -> None:
        """Of a run that was done already: lost or damaged since, its last weights come back from the checkpoint."""
        try:
            self._folder.read_network()
        except CheckpointError as error:
            self._display.say(f"{error}: done now")
            self._folder.write_weights("last", self._kept, self._weights_header())

    def _weights_header(self) -> WeightsHeader:
        progress = self._progress
        return WeightsHeader(
            epoch=progress.epoch,
            epochs=self._recipe.epochs,
            step=progress.step,
            val_video_top1=progress.val_video_top1,
        )

    def _save(self) -> None:
        self._settle()  # so that no checkpoint has weights of a loss that was no number
        assert self._history is not None
        self._history.sync()
        average = None if self._average is None else self._average.network
        self._checkpoints.save(self._progress, self._network, self._optimiser, average)
        self._saved = time.monotonic()

    def _wished(self) -> bool:
        return self._ranks.any(self._wish.asked)

    def _stop_if_wished(self) -> None:
        """Each rank comes by here after each step, so that all stop after the same one."""
        if not self._wished():
            return
        self._settle()
        if self._ranks.leads:
            self._save()
        cause = "stopped" if self._wish.signal is None else f"{self._wish.signal.name}: stopped"
        raise Interrupted(
            f"{cause} after step {self._progress.step:,}, everything is saved: continue with "
            f"`{self._folder.resume_command(self._ranks.world_size, self._ranks.hosts)}`"
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
