"""Going on with a run: what must be as it was when the run was begun."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from resact.cache.store import ClipStore
from resact.errors import UsageError
from resact.train.runs.files.checkpoint import Progress
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.record import RunRecord, StoreIdentity
from resact.train.runs.training.distributed import Ranks
from resact.train.runs.training.optimiser import learning_rate
from resact.train.settings import option

_NAMES_SHOWN = 8  # of the runs that are there, the nearest ones


def saved_record(folder: RunFolder, *, resume: bool) -> RunRecord | None:
    """The record of the run that is to go on; None where one is to begin.

    Raises:
        UsageError: there is a run, and it is not to go on; or there are others, and this one is to go on.
    """
    if folder.exists and not resume:
        raise UsageError(f"{folder} already exists: continue it with --resume, or choose another --run")
    if folder.exists:
        return folder.read_record()
    # A folder without a run is that of one that was stopped before its first step, or its user has made it.
    if resume and not folder.path.is_dir() and (others := _names_of_runs(folder.path.parent)):
        near = get_close_matches(folder.name, others, n=_NAMES_SHOWN, cutoff=0)
        more = f" and {len(others) - len(near):,} more" if len(others) > len(near) else ""
        raise UsageError(
            f"got --resume, but there is no run {folder}: {folder.path.parent} has {', '.join(near)}{more}. Name one "
            "of them with --run, or leave out --resume to start a new run"
        )
    return None


def _names_of_runs(runs: Path) -> list[str]:
    return sorted(path.parent.name for path in runs.glob("*/config.json"))


def with_more_epochs(saved: RunRecord, settings: Mapping[str, Any]) -> RunRecord:
    """The record as it is to be where more epochs are asked for than the run has; else as it is."""
    recipe, asked = saved.config.recipe, settings.get("epochs", 0)
    if asked <= recipe.epochs:
        return saved
    config = replace(saved.config, recipe=replace(recipe, epochs=asked))
    return replace(saved, config=config, earlier_epochs=(*saved.earlier_epochs, recipe.epochs))


def extend(folder: RunFolder, saved: RunRecord, record: RunRecord, progress: Progress, *, epoch_steps: int) -> str:
    """Write the record of a run that is done and goes on for more epochs. The folder is held.

    Args:
        folder: of the run.
        saved: its record until now.
        record: its record from now on.
        progress: where it is.
        epoch_steps: steps an epoch.

    Returns:
        What that does to the learning rate, for people.

    Raises:
        UsageError: it is not done yet, or another process has changed its record.
    """
    done, epochs = saved.config.recipe.epochs, record.config.recipe.epochs
    if progress.epoch < done:
        raise UsageError(
            f"got --epochs {epochs}, but {folder} has trained {progress.epoch} of its {done} epochs: finish it first "
            f"(`{folder.resume_command(saved.world_size)}`), or train a new --run"
        )
    if folder.read_record() != saved:
        raise UsageError(f"{folder} has just been changed by another process: run the same command again")
    folder.write_record(record)
    rates = [
        learning_rate(record.config.recipe, step, epoch_steps=epoch_steps, earlier_epochs=record.earlier_epochs)
        for step in (done * epoch_steps - 1, done * epoch_steps)
    ]
    return (
        f"{folder} continues from epoch {done} to {epochs}. Its learning rate had fallen to {rates[0]:.3g}. From here "
        "on "
        f"it is that of a run of {epochs} epochs: it starts again at {rates[1]:.3g} and falls to 0"
    )


def require_same(
    saved: RunRecord, settings: Mapping[str, Any], store: ClipStore, ranks: Ranks, folder: RunFolder
) -> None:
    """What decides the result must be as it was.

    Raises:
        UsageError: names all that differs.
    """
    require_same_settings(saved, settings, folder)
    if not saved.store.same_as(StoreIdentity.of(store)):
        raise UsageError(
            f"{store.files} is not the store that {folder} was started with ({saved.store.dataset} at "
            f"{saved.store.path}), or it has changed since: name that one with --store, or choose another --run"
        )
    if saved.world_size != ranks.world_size:
        raise UsageError(
            f"{folder} was started on {saved.world_size} devices, not {ranks.world_size}, and each normalises its own "
            f"part of a batch: continue with `{folder.resume_command(saved.world_size)}`"
        )


def require_same_settings(saved: RunRecord, settings: Mapping[str, Any], folder: RunFolder) -> None:
    """Refuse to go on with a run under other settings than it was begun with.

    Raises:
        UsageError: names all that differ; those not asked for do not.
    """
    before = saved.config.settings
    wanted = RunConfig.of(before | dict(settings)).settings
    differing = [
        f"{option(name)}: {value!r}, asked for {wanted[name]!r}"
        for name, value in before.items()
        if value != wanted[name]
    ]
    if differing:
        raise UsageError(
            f"{folder} has other settings ({'; '.join(differing)}): leave them out, or choose another --run"
        )


def as_begun(config: RunConfig) -> RunConfig:
    """A run whose record says nothing of kernels was begun when there were only eager ones."""
    return replace(config, kernels="eager") if config.kernels == "auto" else config


def set_compute_threads(
    asked: int | None, saved: RunRecord | None, ranks: Ranks, folder: RunFolder, console: Console
) -> None:
    """Compute with as many threads as asked for, or as the run was begun with.

    On a CPU the last bits of its weights depend on their number, for it decides in which order sums are added up.

    Raises:
        UsageError: the run was begun with another number.
    """
    if saved is not None and ranks.device.type == "cpu":
        before = saved.compute_threads
        if before is None:
            console.print(
                f"note: {folder} was started by an older version, which did not record its number of compute threads. "
                f"If it was not {asked or torch.get_num_threads()}, the last bits of its weights will differ from "
                "those of an uninterrupted run (--compute-threads N)"
            )
        elif asked not in (None, before):
            raise UsageError(
                f"{folder} was started with {before} compute threads, not {asked}, and the last bits of its weights "
                "depend on that: leave out --compute-threads, or choose another --run"
            )
        else:
            asked = before
    if asked is not None:
        torch.set_num_threads(asked)


@contextmanager
def compute_threads_restored() -> Iterator[None]:
    """What is computed next in this process has as many threads as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
