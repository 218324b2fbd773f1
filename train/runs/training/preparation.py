"""Prepares a training: store, settings, videos and form of the step, all checked before anything is written."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from resact.cache.default_paths import find_store
from resact.cache.grouping import grouping
from resact.cache.leaks import leak_words, store_leaks
from resact.cache.repeats import repeats
from resact.cache.store import ClipStore, open_store
from resact.errors import UsageError
from resact.train.clips.sampling import batches
from resact.train.networks.own import NetworkSource, try_own
from resact.train.runs.distributed import Ranks
from resact.train.runs.execution import outline
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.record import InitialWeights, RunRecord, open_run_store
from resact.train.runs.training.class_weights import class_weights, imbalance
from resact.train.runs.training.device_checks import memory_shortage, rightly_computed
from resact.train.runs.training.display import TrainDisplay
from resact.train.runs.training.fine_tuning import initial_weights, optimiser_for
from resact.train.runs.training.kernel_choice import with_kernels
from resact.train.runs.training.resumption import (
    as_begun,
    require_same,
    saved_record,
    set_compute_threads,
    with_more_epochs,
)
from resact.train.runs.training.videos import RunVideos, choose_videos, usual_share, videos_as_begun


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """All that is known of a training before its first step."""

    config: RunConfig
    """Complete config, without automatic choices left."""
    saved: RunRecord | None
    """The record of the run to resume, as it is in its folder; None for a new run."""
    record: RunRecord | None
    """The same with the epochs asked for."""
    store: ClipStore
    videos: RunVideos
    class_weights: tuple[float, ...] | None
    """Factor of each class's losses; None if all classes have the same weight."""
    source: NetworkSource | None
    """Source of a new run's network, if it is the user's own."""
    initial: InitialWeights | None
    """Initial weights of a new run; None if it trains from scratch."""
    kernel_choice: dict[str, Any] | None
    """How the form of a step was chosen; None if nothing was timed."""


def prepare(
    settings: Mapping[str, Any],
    asked: RunConfig,
    folder: RunFolder,
    store: str | os.PathLike[str] | None,
    ranks: Ranks,
    display: TrainDisplay,
    *,
    resume: bool,
    allow_world_size_change: bool,
    compute_threads: int | None,
) -> Preparation:
    """Check everything that can be checked, and print notes. Each rank must call this.

    Arguments and errors are those of `train`; `asked` is the config of the settings, `folder` the run's.
    """
    console = display.console
    display.prepare("opening the store")
    # Only rank 0 looks: a moment later it may have begun the run that the others would then find.
    saved = ranks.from_first(lambda: saved_record(folder, resume=resume))
    if resume and saved is None:
        console.print(f"note: {folder} has no run yet, so it starts now")
    opened = _open_store(store, saved, folder)
    if opened.partial:
        console.print(f"note: {opened.files} is {opened.partial}")
    for note in grouping(opened.index, opened.settings.dataset, partial=opened.partial).notes:
        console.print(f"note: {note}")
    if leak := leak_words(store_leaks(opened)):
        console.print(f"note: {leak}")
    record = None if saved is None else with_more_epochs(saved, settings)
    if record is not None:
        require_same(record, settings, opened, ranks, folder, allow_world_size_change=allow_world_size_change)
    set_compute_threads(compute_threads, saved, ranks, folder, console)
    config = resolved(asked, opened, ranks.device) if record is None else as_begun(record.config)
    split = config.split
    assert split is not None  # of a resolved config
    if saved is None:
        _require_classes(opened)
        videos = choose_videos(
            opened.index, split, val_groups=config.val_groups, val_share=config.val_share, seed=config.seed
        )
    else:
        videos = videos_as_begun(opened.index, split, saved.held_out, given=saved.val_given)
    for note in videos.notes:
        console.print(f"note: {note}")
    weights = _class_weights(config, opened, videos, saved, settings, folder)
    if (uneven := imbalance(config.recipe, opened.index, videos.train)) is not None:
        console.print(f"note: {uneven}")
    _require_batches(len(videos.train), config, ranks)
    if config.recipe.sync_batch_norm and ranks.world_size == 1:
        console.print("note: --sync-batch-norm changes nothing on one device, whose batch norm has the whole batch")
    slower = repeats(opened.index, opened.settings.decode.fps, videos.train)
    if slower and config.geometry.modality != "rgb" and config.geometry.step == 1:
        console.print(f"note: of the training list, {slower.note}")
    source, initial = None, None
    if saved is None:  # what is wrong with the network or its weights is said before any work
        network = outline(config)
        optimiser_for(network, config)
        if config.architecture.is_own:
            source = try_own(network, config.architecture, frames=config.geometry.frames, size=config.geometry.size)
        initial = ranks.from_first(lambda: initial_weights(config, folder.path.parent, opened.index.classes))
    if (shortage := memory_shortage(config, ranks)) is not None:
        console.print(f"warning: {shortage}")
    display.prepare("building the network")
    sizes = [len(step) for step in batches(len(videos.train), config.recipe.batch_size)]
    chosen = with_kernels(
        config,
        ranks,
        console,
        steps=config.recipe.epochs * len(sizes),
        sizes=len({*sizes}),
        begun_on=None if saved is None else saved.provenance.get("device", "unknown"),
        trying=lambda form: display.prepare(f"trying the step in the form {form}"),
    )
    config = chosen.config
    if not chosen.checked:
        config = rightly_computed(config, ranks, console, may_change=saved is None and asked.amp is None)
    return Preparation(
        config=config,
        saved=saved,
        record=record,
        store=opened,
        videos=videos,
        class_weights=weights,
        source=source,
        initial=initial,
        kernel_choice=chosen.record,
    )


def _open_store(store: str | os.PathLike[str] | None, saved: RunRecord | None, folder: RunFolder) -> ClipStore:
    if store is not None:
        return open_store(store)
    return open_store(find_store()) if saved is None else open_run_store(saved, str(folder))


def resolved(asked: RunConfig, store: ClipStore, device: torch.device) -> RunConfig:
    """The config of a new run, with nothing left to choose except the form of its step."""
    dataset = store.settings.dataset
    split = dataset.splits[0] if asked.split is None else asked.split
    share = asked.val_share
    if share is None:
        share = usual_share(store.index, split, val_groups=asked.val_groups, seed=asked.seed)
    return replace(
        asked.for_classes(len(store.index.classes)),
        split=split,
        val_share=share,
        flip=dataset.flip_safe if asked.flip is None else asked.flip,
        amp=device.type == "cuda" if asked.amp is None else asked.amp,
    )


def _require_classes(store: ClipStore) -> None:
    if len(classes := store.index.classes) < 2:
        raise UsageError(
            f"got {store.files} with the class {', '.join(classes)} alone, expected two or more: prep or copy more"
        )


def _require_batches(num_videos: int, config: RunConfig, ranks: Ranks) -> None:
    batch_size = config.recipe.batch_size
    if batch_size % ranks.world_size:
        raise UsageError(
            f"got --batch-size {batch_size} for {ranks.world_size} devices, expected a multiple of that: it is the "
            "total of all devices"
        )
    if config.recipe.accumulate > batch_size // ranks.world_size:
        raise UsageError(
            f"got --accumulate {config.recipe.accumulate} for --batch-size {batch_size} on {ranks.world_size} devices, "
            f"expected no more parts than the {batch_size // ranks.world_size} clips of a device: --batch-size counts "
            "the clips of all parts"
        )
    if num_videos // -(-num_videos // batch_size) < ranks.world_size:
        raise UsageError(
            f"got --batch-size {batch_size} for {num_videos} training videos and {ranks.world_size} devices: "
            "some steps would leave a device without a clip; use fewer devices"
        )


def _class_weights(
    config: RunConfig,
    store: ClipStore,
    videos: RunVideos,
    saved: RunRecord | None,
    settings: Mapping[str, Any],
    folder: RunFolder,
) -> tuple[float, ...] | None:
    """Of the record where a run goes on, which needs no file of weights any more.

    Raises:
        UsageError: as in `class_weights`, or a resumed run names its weights file again and the weights differ.
    """
    if saved is not None and "class_weights" not in settings:
        return saved.class_weights
    weights = class_weights(config.recipe, store.index, videos.train)
    if saved is not None and weights != saved.class_weights:
        raise UsageError(
            f"{config.recipe.class_weights} has other weights than {folder} was started with: leave out "
            "--class-weights, or choose another --run"
        )
    return weights
