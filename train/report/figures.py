"""Figures of runs that differ only in their seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resact.train.report.read_runs import ReadRun


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of runs that differ only in their seed; accuracies in percent of videos, means over the seeds."""

    top1: float
    top5: float | None
    """Top-5 in percent; None with fewer than five classes."""
    top1_spread: float | None
    """Sample standard deviation over the seeds; None with one seed."""
    top5_spread: float | None
    multiply_adds: int
    """Multiply-adds of the run's own network for one clip of its own size."""
    parameters: int
    epochs: int
    clips_per_second: float | None
    """Clips per second in training; None if no history has it."""
    padded_share: float
    """Share of training clips that are longer than their video."""
    seeds: tuple[int, ...]

    @property
    def g(self) -> float:
        """Multiply-adds in 10^9, as the paper gives them."""
        return self.multiply_adds / 1e9


def figures_of(runs: Sequence["ReadRun"]) -> Figures | None:
    """Figures of the finished runs; None if none is finished."""
    done = [(run, run.evaluation) for run in runs if run.evaluation is not None]
    if not done:
        return None
    first = done[0][0]
    top1 = [evaluation.top1 for _, evaluation in done]
    top5 = [evaluation.top5 for _, evaluation in done if evaluation.top5 is not None]
    rates = [run.clips_per_second for run, _ in done if run.clips_per_second is not None]
    return Figures(
        top1=fmean(top1),
        top5=fmean(top5) if top5 else None,
        top1_spread=stdev(top1) if len(top1) > 1 else None,
        top5_spread=stdev(top5) if len(top5) > 1 else None,
        multiply_adds=first.cost.multiply_adds,
        parameters=first.cost.parameters,
        epochs=first.epoch,
        clips_per_second=fmean(rates) if rates else None,
        padded_share=fmean(run.record.padded_share for run, _ in done),
        seeds=tuple(run.record.config.seed for run, _ in done),
    )
