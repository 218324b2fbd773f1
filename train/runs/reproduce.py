"""`resact reproduce`: trains and evaluates the runs of the paper's tables 2, 3 and 4, one after another."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Column, Table

from resact.cache.store import ClipStore
from resact.errors import CheckpointError, Interrupted, RunError, RunNotFoundError, UsageError
from resact.train.networks.variants import PAPER_VARIANTS, VARIED
from resact.train.runs.distributed import Ranks
from resact.train.runs.execution import chosen_device
from resact.train.runs.files.config import EXTRAS, FINE_TUNING, RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.testing.evaluate import VIEWS, evaluate_run
from resact.train.runs.testing.predictions import PREDICTIONS, Predictions, read_predictions, write_predictions
from resact.train.runs.testing.trained import is_current, load_trained
from resact.train.runs.training.kernel_choice import with_kernels
from resact.train.runs.training.preparation import resolved
from resact.train.runs.training.resumption import require_same_settings
from resact.train.runs.training.train import train
from resact.train.runs.training.trials import step_seconds
from resact.train.runs.training.videos import choose_videos

TABLES = (2, 3, 4)

_FORWARD_SHARE = 1 / 3  # of a training step: the backward pass is counted as twice the forward pass

Status = Literal["done", "to evaluate", "begun", "to do"]


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of the tables."""

    name: str
    settings: Mapping[str, Any]
    tables: tuple[int, ...]
    """Tables that have it as a row."""
    status: Status
    train_clips: int
    """Number of clips left to train on; all of them if the run's weights are damaged, even if its checkpoint has
    more."""
    test_clips: int
    """Number of clips left to evaluate."""


def plan_runs(
    settings: Mapping[str, Any], store: ClipStore, runs: Path, *, tables: Sequence[int], seeds: Sequence[int]
) -> list[PlannedRun]:
    """The runs to do, one seed after another, so that complete tables come early.

    Args:
        settings: settings of all runs, such as small sizes; without `val_groups` nothing is held out, as in the paper.
        store: store of all runs.
        runs: folder of runs.
        tables: numbers of the paper's tables.
        seeds: each run is trained with each seed.

    Raises:
        UsageError: no such table, no seed, a setting that the tables vary, or an existing run with other settings.
    """
    if not tables or not set(tables) <= set(TABLES):
        raise UsageError(f"got --tables {_listed(tables)}, expected some of {_listed(TABLES)}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"got --seeds {_listed(seeds)}, expected numbers that differ, such as 0,1,2")
    if tuned := [name for name in FINE_TUNING if name in settings]:
        raise UsageError(f"got {tuned[0]}, but the paper trains from scratch: leave it out, or use `resact train`")
    if added := [name for name in EXTRAS if name in settings]:
        raise UsageError(f"got {added[0]}, which the paper does not mention: leave it out, or use `resact train`")
    varied = set(VARIED) & settings.keys()
    if varied:
        raise UsageError(f"got {', '.join(sorted(varied))}, which the tables vary: leave it out, or use `resact train`")
    variants = [variant for variant in PAPER_VARIANTS if set(variant.tables) & set(tables)]
    planned = []
    for seed in seeds:
        for variant in variants:
            asked = {"val_groups": 0} | dict(settings) | variant.settings | {"seed": seed}
            planned.append(_planned(asked, store, runs, variant.tables))
    return planned


def reproduce(
    settings: Mapping[str, Any],
    store: ClipStore,
    runs: Path,
    *,
    tables: Sequence[int] = TABLES,
    seeds: Sequence[int] = (0,),
    threads: int | None = None,
    compute_threads: int | None = None,
    dry_run: bool = False,
    console: Console,
) -> dict[str, Any]:
    """Train and evaluate all unfinished runs. If it is stopped at any moment, the same call continues.

    Args:
        settings: as in `plan_runs`.
        store: as in `plan_runs`.
        runs: as in `plan_runs`.
        tables: as in `plan_runs`.
        seeds: as in `plan_runs`.
        threads: number of threads that read clips.
        compute_threads: as in `train`.
        dry_run: only print the estimated cost.
        console: where to print.

    Returns:
        `runs`, each with `run, tables, seed, status, video_top1, video_top5` (None if not evaluated); `clips` to train
        on and to evaluate; and `hours`, the estimated time, None if there was nothing to do.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError("got several processes, expected one: use `resact train` under torchrun, run by run")
    planned = plan_runs(settings, store, runs, tables=tables, seeds=seeds)
    hours = _announce(planned, console)
    result: dict[str, Any] = {
        "clips": sum(run.train_clips + run.test_clips for run in planned),
        "hours": hours,
    }
    for number, run in enumerate(planned, start=1):
        if run.status == "done" or dry_run:
            continue
        console.print(f"run {number} of {len(planned)}: {run.name}")
        try:
            if run.train_clips:
                where = str(store.files)
                train(
                    run.settings,
                    runs=runs,
                    name=run.name,
                    store=where,
                    resume=RunFolder(runs / run.name).exists,
                    threads=threads,
                    compute_threads=compute_threads,
                    console=console,
                )
            _evaluate(RunFolder(runs / run.name), store, threads, console)
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted(f"stopped in {run.name}; the same command continues from there") from None
    return {"runs": [_row(run, runs) for run in planned], **result}


def _planned(asked: dict[str, Any], store: ClipStore, runs: Path, tables: tuple[int, ...]) -> PlannedRun:
    config = RunConfig.of(asked)
    name = f"paper-{config.default_name}"
    folder = RunFolder(runs / name)
    if folder.exists:
        record = folder.read_record()
        if record.initial is not None:
            raise UsageError(
                f"{folder} started from the weights of {record.initial.source}, but the paper trains from scratch: "
                "give that "
                "run another name, or choose another --runs"
            )
        require_same_settings(record, asked, folder)
    config = resolved(config, store, chosen_device())
    assert config.split is not None
    videos = choose_videos(
        store.index, config.split, val_groups=config.val_groups, val_share=config.val_share, seed=config.seed
    )
    tests = store.index.video_indices(config.split, "test")
    if not len(tests):
        raise UsageError(f"{store.files} has no test video of {config.split}: `resact info` says what it holds")
    epochs_left = config.recipe.epochs - _epochs_trained(folder)
    evaluated = epochs_left == 0 and _evaluation(folder) is not None
    status: Status = "begun" if folder.exists else "to do"
    if epochs_left == 0:
        status = "done" if evaluated else "to evaluate"
    return PlannedRun(
        name=name,
        settings=asked,
        tables=tables,
        status=status,
        train_clips=epochs_left * len(videos.train),
        test_clips=0 if evaluated else len(tests) * VIEWS,
    )


def _epochs_trained(folder: RunFolder) -> int:
    """As whole weights show it; 0 where they are missing or damaged: then the checkpoint says where to go on."""
    try:
        return folder.read_network()[1].epoch
    except (RunNotFoundError, CheckpointError):
        return 0


def _evaluation(folder: RunFolder) -> Predictions | None:
    """Of the weights that the run has now; None where there is none, or one that is damaged."""
    try:
        predictions = read_predictions(folder.path / PREDICTIONS)
    except RunError:
        return None
    return predictions if is_current(folder, predictions.provenance) else None


def _evaluate(folder: RunFolder, store: ClipStore, threads: int | None, console: Console) -> None:
    predictions = evaluate_run(load_trained(folder), store, threads=threads)
    write_predictions(folder.path / PREDICTIONS, predictions)
    scores = predictions.accuracy
    top5 = "" if scores.video_top5 is None else f", top-5 {scores.video_top5:.1%}"
    console.print(f"{folder}: video top-1 {scores.video_top1:.1%}{top5} of {scores.videos:,} test videos")


def _row(run: PlannedRun, runs: Path) -> dict[str, Any]:
    folder = RunFolder(runs / run.name)
    row: dict[str, Any] = {"run": str(folder), "tables": run.tables, "seed": run.settings["seed"]}
    predictions = _evaluation(folder)
    if predictions is None:
        return row | {"status": run.status, "video_top1": None, "video_top5": None}
    scores = predictions.accuracy
    return row | {"status": "done", "video_top1": scores.video_top1, "video_top5": scores.video_top5}


def _announce(planned: list[PlannedRun], console: Console) -> float | None:
    """Print what it will cost, after a few steps of each network that there is something to do for."""
    device = chosen_device()
    rates: dict[RunConfig, float] = {}
    table = Table(Column("run", overflow="fold"), "tables", "status", "training clips", "test clips", "hours")
    total = 0.0
    for run in planned:
        hours = 0.0
        if run.status != "done":
            config = RunConfig.of(run.settings)
            kind = replace(config, seed=0, amp=device.type == "cuda" if config.amp is None else config.amp)
            if kind not in rates:
                console.print(f"measuring a few steps of {run.name}")
                rates[kind] = _training_rate(kind, run.train_clips, device)
            clips = run.train_clips + run.test_clips * _FORWARD_SHARE
            hours = clips / rates[kind] / 3600 if rates[kind] else math.inf
        total += hours
        cells = f"{run.train_clips:,}", f"{run.test_clips:,}", f"{hours:,.2f}"
        table.add_row(run.name, _listed(run.tables), run.status, *cells)
    console.print(table, soft_wrap=False)
    to_do = [run for run in planned if run.status != "done"]
    if not to_do:
        console.print(f"all {len(planned)} runs are done")
        return None
    console.print(
        f"{len(to_do)} of {len(planned)} runs to do: about {total:,.2f} hours on {device.type}, without waiting for "
        "data"
    )
    return total


def _training_rate(config: RunConfig, clips: int, device: torch.device) -> float:
    """Training clips per second, on clips that are already in memory; 0 where a step needs too much memory."""
    ranks, batch = Ranks(rank=0, world_size=1, device=device), config.recipe.batch_size
    chosen = with_kernels(config, ranks, Console(quiet=True), steps=-(-clips // batch))
    return batch / step_seconds(chosen.config, device)


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
