"""Resuming a run: checks that everything that decides its result is unchanged."""

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
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.checkpoint import Progress
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.record import RunRecord, StoreIdentity, devices
from resact.train.runs.training.optimiser import learning_rate
from resact.train.settings import option

_OF_FORM = ("compile", "channels_last")  # what kernels decide, if they are asked for
_NAMES_SHOWN = 8  # of the runs that are there, the nearest ones


def saved_record(folder: RunFolder, *, resume: bool) -> RunRecord | None:
    """The record of the run to resume; None for a new run.

    Raises:
        UsageError: the run exists and should not be resumed; or it should be resumed, does not exist, and others do.
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
    """The record with more epochs, if more are asked for than the run has; otherwise unchanged."""
    recipe, asked = saved.config.recipe, settings.get("epochs", 0)
    if asked <= recipe.epochs:
        return saved
    config = replace(saved.config, recipe=replace(recipe, epochs=asked))
    return replace(saved, config=config, earlier_epochs=(*saved.earlier_epochs, recipe.epochs))


def write_changes(
    folder: RunFolder, saved: RunRecord, record: RunRecord, progress: Progress, *, epoch_steps: int
) -> list[str]:
    """Write the record of a run that continues for more epochs, or on another number of devices. The folder must be
    locked.

    Args:
        folder: folder of the run.
        saved: its old record.
        record: its new record.
        progress: its progress.
        epoch_steps: steps an epoch.

    Returns:
        Notes on what changes with it.

    Raises:
        UsageError: more epochs for a run that is not finished, or another process has changed its record.
    """
    done, epochs = saved.config.recipe.epochs, record.config.recipe.epochs
    if epochs > done and progress.epoch < done:
        raise UsageError(
            f"got --epochs {epochs}, but {folder} has trained {progress.epoch} of its {done} epochs: finish it first "
            f"(`{folder.resume_command(saved.world_size)}`), or train a new --run"
        )
    if folder.read_record() != saved:
        raise UsageError(f"{folder} has just been changed by another process: run the same command again")
    folder.write_record(record)
    notes = []
    if epochs > done:
        rates = [
            learning_rate(record.config.recipe, step, epoch_steps=epoch_steps, earlier_epochs=record.earlier_epochs)
            for step in (done * epoch_steps - 1, done * epoch_steps)
        ]
        notes.append(
            f"{folder} continues from epoch {done} to {epochs}. Its learning rate had fallen to {rates[0]:.3g}. From "
            f"here on it is that of a run of {epochs} epochs: it starts again at {rates[1]:.3g} and falls to 0"
        )
    if record.world_size != saved.world_size:
        notes.append(_on_other_devices(folder, saved, record))
    return notes


def _on_other_devices(folder: RunFolder, saved: RunRecord, record: RunRecord) -> str:
    recipe = record.config.recipe
    differs = []
    if not recipe.sync_batch_norm:
        before, now = (-(-recipe.batch_size // (one.world_size * recipe.accumulate)) for one in (saved, record))
        differs.append(f"batch norm uses the statistics of {now} clips instead of {before}")
    if record.architecture.dropout:
        differs.append("dropout draws other masks")
    if recipe.mixup is not None:
        differs.append("mixup mixes other clips")
    return (
        f"note: {folder} continues on {devices(record.world_size)} instead of {devices(saved.world_size)}. Clips and "
        f"their order stay the same. From here on {', '.join([*differs, 'sums are rounded otherwise'])}: the result "
        f"differs from that of a run on one number of devices. {folder.config.name} and the report say so"
    )


def require_same(
    saved: RunRecord,
    settings: Mapping[str, Any],
    store: ClipStore,
    ranks: Ranks,
    folder: RunFolder,
    *,
    allow_world_size_change: bool,
) -> None:
    """Check that everything that decides the result is unchanged, except for the number of devices if that may change.

    Raises:
        UsageError: something differs; names all differences.
    """
    require_same_settings(saved, settings, folder)
    if not saved.store.same_as(StoreIdentity.of(store)):
        raise UsageError(
            f"{store.files} is not the store that {folder} was started with ({saved.store.dataset} at "
            f"{saved.store.path}), or it has changed since: name that one with --store, or choose another --run"
        )
    if saved.world_size != ranks.world_size and not allow_world_size_change:
        raise UsageError(
            f"{folder} was started on {devices(saved.world_size)}, not {ranks.world_size}, and each normalises its own "
            f"part of a batch: continue with `{folder.resume_command(saved.world_size)}`, or add "
            "--allow-world-size-change if the result may differ"
        )


def require_same_settings(saved: RunRecord, settings: Mapping[str, Any], folder: RunFolder) -> None:
    """Refuse to resume a run with other settings than it was started with.

    Raises:
        UsageError: settings differ; names all of them. Only settings that were asked for are compared.
    """
    before, asked = saved.config.settings, dict(settings)
    if _has_form(saved.config, asked.get("kernels")):
        del asked["kernels"]
    kept = {name: value for name, value in before.items() if "kernels" not in asked or name not in _OF_FORM}
    wanted = RunConfig.of(kept | asked).settings
    differing = [
        f"{option(name)}: {value!r}, asked for {wanted[name]!r}"
        for name, value in before.items()
        if value != wanted[name]
    ]
    if differing:
        raise UsageError(
            f"{folder} has other settings ({'; '.join(differing)}): leave them out, or choose another --run"
        )


def _has_form(config: RunConfig, asked: str | None) -> bool:
    """Whether the form that a run was begun with is one of those that were asked for; none is chosen again."""
    if asked == "compiled":
        return bool(config.compile)
    return asked == "auto" or (asked == "graph" and config.graphed)


def as_begun(config: RunConfig) -> RunConfig:
    """The config with `eager` kernels if the record names none: then the run was started before there were others."""
    return replace(config, kernels="eager") if config.kernels == "auto" else config


def set_compute_threads(
    asked: int | None, saved: RunRecord | None, ranks: Ranks, folder: RunFolder, console: Console
) -> None:
    """Set the number of compute threads: as asked for, or as the run was started with.

    On a CPU the last bits of the weights depend on this number, because it decides the order of sums.

    Raises:
        UsageError: the run was started with another number.
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
    """A context that restores the number of compute threads afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
