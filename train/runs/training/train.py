"""`resact train`: checks everything, starts or resumes a run, and trains it to its end."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from resact.cache.default_paths import find_store
from resact.cache.grouping import grouping
from resact.cache.leaks import leak_words, store_leaks
from resact.cache.provenance import provenance
from resact.cache.repeats import repeats
from resact.cache.store import ClipStore, open_store
from resact.errors import Interrupted, UsageError
from resact.train.clips.measurement import measure_normalisation
from resact.train.clips.sampling import TestPlan, TrainPlan, batches
from resact.train.clips.stream import ClipStream
from resact.train.networks.architecture import refuse_for_own
from resact.train.networks.own import NetworkSource, changed_files, try_own
from resact.train.networks.synchronised_norm import synchronise_norms
from resact.train.runs.distributed import Ranks, open_ranks
from resact.train.runs.execution import build_network, outline, place, use_kernels
from resact.train.runs.files.checkpoint import Checkpoints, Progress, memory_of
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.history import History
from resact.train.runs.files.record import InitialWeights, RunRecord, StoreIdentity, open_run_store
from resact.train.runs.files.tensorboard import has_tensorboard
from resact.train.runs.training.class_weights import class_weights, imbalance
from resact.train.runs.training.device_checks import memory_shortage, rightly_computed
from resact.train.runs.training.display import TrainDisplay
from resact.train.runs.training.fine_tuning import (
    initial_weights,
    load_initial,
    optimiser_for,
    said_of,
    warning_on,
)
from resact.train.runs.training.kernel_choice import with_kernels
from resact.train.runs.training.loop import Loop, Throughput
from resact.train.runs.training.resumption import (
    as_begun,
    compute_threads_restored,
    require_same,
    saved_record,
    set_compute_threads,
    with_more_epochs,
    write_changes,
)
from resact.train.runs.training.stopping import stop_on_signals
from resact.train.runs.training.validation import VALIDATION_VIEWS
from resact.train.runs.training.videos import RunVideos, choose_videos, usual_share, videos_as_begun
from resact.train.runs.training.weight_average import WeightAverage


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training."""

    run: str
    """Path of the run's folder."""
    epochs: int
    """Epochs trained in total."""
    steps: int
    """Steps trained in total."""
    clips_per_second: float | None
    """Clips per second of this process, without validation; None if there was nothing left to do."""
    data_wait_share: float | None
    """Share of that time spent waiting for data."""
    video_top1: float | None
    """Video top-1 of the last epoch's weights on the validation videos, in [0, 1]; None without validation videos."""
    best_epoch: int | None
    """Epochs after which the best weights were saved; None if none are kept."""
    best_video_top1: float | None


def train(
    settings: Mapping[str, Any],
    *,
    runs: str | os.PathLike[str] = "runs",
    name: str | None = None,
    store: str | os.PathLike[str] | None = None,
    resume: bool = False,
    allow_world_size_change: bool = False,
    threads: int | None = None,
    compute_threads: int | None = None,
    checkpoint_seconds: float = 300.0,
    console: Console | None = None,
) -> TrainResult | None:
    """Train one run to its end. With several torchrun processes, the first one writes, prints and returns the result.

    Args:
        settings: settings by name, only those asked for; see `RunConfig`.
        runs: the folder of runs.
        name: name of the run; None for a name made from its settings.
        store: path or URL; None for the run's store, or for the only store in the data folder if the run is new.
        resume: resume the run. If the folder of runs is empty, or has an empty folder of its name, start a new run.
        allow_world_size_change: resume the run on another number of devices, too. Clips and their order stay the same;
            batch norm and dropout do not, which the run records.
        threads: number of threads that read clips; None: one per core, shared among ranks.
        compute_threads: number of compute threads on the CPU; None for the run's number, or torch's if the run is new.
        checkpoint_seconds: time between checkpoints; one is also written after each epoch.
        console: where to print; None for standard output, `Console(quiet=True)` for nothing.

    Raises:
        UsageError: settings are wrong, or contradict each other, the store, or the run to resume.
        RunLockedError: another training is writing to the run.
        CheckpointError: no checkpoint of the run is intact.
        DivergedError: the loss is not finite.
        Interrupted: ctrl-C or SIGTERM.

    Example:
        small = {"step": 2, "width": 0.25, "depths": (1, 1, 1, 1), "frames": 8, "size": 32, "epochs": 2}
        result = resact.train(small, store="data/sample.zarr", name="small")
        print(result.run, result.video_top1)  # runs/small; top-1 of the training videos that were held out
    """
    if allow_world_size_change and not resume:
        raise UsageError("got --allow-world-size-change without --resume: it is for a run that continues; leave it out")
    asked = RunConfig.of(settings)
    if asked.architecture.is_own:
        refuse_for_own(settings)
    console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    folder = RunFolder(Path(runs) / _checked_name(asked.default_name if name is None else name))
    with open_ranks() as ranks, compute_threads_restored():
        display = TrainDisplay(console if ranks.leads else Console(quiet=True), folder.name)
        try:
            with display:
                result = _train(
                    settings,
                    asked,
                    folder,
                    store,
                    ranks,
                    display,
                    resume=resume,
                    allow_world_size_change=allow_world_size_change,
                    threads=threads,
                    compute_threads=compute_threads,
                    checkpoint_seconds=checkpoint_seconds,
                )
        except KeyboardInterrupt:
            if not folder.exists:
                raise Interrupted("stopped before the first step: the same command starts again") from None
            again = folder.resume_command(ranks.world_size, ranks.hosts)
            raise Interrupted(f"stopped at once; continue from the last checkpoint with `{again}`") from None
        return result if ranks.leads else None


def _train(
    settings: Mapping[str, Any],
    asked: RunConfig,
    folder: RunFolder,
    store: str | os.PathLike[str] | None,
    ranks: Ranks,
    display: TrainDisplay,
    *,
    resume: bool,
    allow_world_size_change: bool,
    threads: int | None,
    compute_threads: int | None,
    checkpoint_seconds: float,
) -> TrainResult:
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
    planned = None if saved is None else with_more_epochs(saved, settings)
    if planned is not None:
        require_same(planned, settings, opened, ranks, folder, allow_world_size_change=allow_world_size_change)
    set_compute_threads(compute_threads, saved, ranks, folder, console)
    config = _resolved(asked, opened, ranks) if planned is None else as_begun(planned.config)
    if saved is None:
        _require_classes(opened)
        videos = choose_videos(
            opened.index, _split(config), val_groups=config.val_groups, val_share=config.val_share, seed=config.seed
        )
    else:
        videos = videos_as_begun(opened.index, _split(config), saved.held_out, given=saved.val_given)
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
    with ExitStack() as held, stop_on_signals() as wish:
        ranks.from_first(lambda: held.enter_context(folder.lock()))
        record = planned or ranks.from_first(
            lambda: _begin(
                config, folder, opened, videos, source, initial, weights, ranks, threads, display, chosen.record
            )
        )
        held.enter_context(_false_start_undone(folder, new=saved is None and ranks.leads))
        display.prepare("building the network")
        network, optimiser, average, progress = _restored(record, folder, ranks, console)
        training, validation = _streams(record, opened, videos, ranks, threads)
        if saved is not None:
            record = continued = record.with_devices(ranks.world_size, step=progress.step)
            steps = len(training)
            if record != saved:
                for note in ranks.from_first(
                    lambda: write_changes(folder, saved, continued, progress, epoch_steps=steps)
                ):
                    console.print(note)
        _announce(record, folder, len(training), ranks, console)
        display.begin(
            epochs=config.recipe.epochs,
            epoch_steps=len(training),
            step=progress.step,
            device=ranks.device,
            compiles=bool(config.compile),
        )
        history = History(folder.metrics, progress) if ranks.leads else None
        if not has_tensorboard():
            console.print(f"no TensorBoard events, only {folder.metrics}: `pip install tensorboard` adds them")
        with history or nullcontext():
            loop = Loop(
                config=config,
                folder=folder,
                network=network,
                optimiser=optimiser,
                average=average,
                progress=progress,
                stream=training,
                validation=validation,
                choose_best=record.choose_best,
                ranks=ranks,
                display=display,
                history=history,
                wish=wish,
                checkpoint_seconds=checkpoint_seconds,
                earlier_epochs=record.earlier_epochs,
                class_weights=record.class_weights,
            )
            loop.run()
    return _result(folder, progress, loop.throughput)


@contextmanager
def _false_start_undone(folder: RunFolder, *, new: bool) -> Iterator[None]:
    """A new run that fails before its first step leaves nothing: the next try would be told that it is there."""
    try:
        yield
    except Interrupted:
        raise
    except Exception:
        if new and not folder.has_steps:
            folder.discard()
        raise


def _checked_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UsageError(f"got --run {name!r}, expected the name of one folder below --runs")
    return name


def _open_store(store: str | os.PathLike[str] | None, saved: RunRecord | None, folder: RunFolder) -> ClipStore:
    if store is not None:
        return open_store(store)
    return open_store(find_store()) if saved is None else open_run_store(saved, str(folder))


def _resolved(asked: RunConfig, store: ClipStore, ranks: Ranks) -> RunConfig:
    """With nothing left to choose."""
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
        amp=ranks.device.type == "cuda" if asked.amp is None else asked.amp,
    )


def _split(config: RunConfig) -> str:
    assert config.split is not None  # a resolved one
    return config.split


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


def _begin(
    config: RunConfig,
    folder: RunFolder,
    store: ClipStore,
    videos: RunVideos,
    source: NetworkSource | None,
    initial: InitialWeights | None,
    weights: tuple[float, ...] | None,
    ranks: Ranks,
    threads: int | None,
    display: TrainDisplay,
    kernel_choice: dict[str, Any] | None,
) -> RunRecord:
    """Measure what has to be measured, and write `config.json`."""
    saved_record(folder, resume=False)  # another process may have begun it before this one held the lock
    if Checkpoints(folder.path).exist:
        raise UsageError(f"{folder} has checkpoints, but no {folder.config.name}: restore it, or choose another --run")
    plan = _train_plan(store, videos, config)
    display.say(f"{folder}: measuring mean and standard deviation of the training clips")
    tell = display.prepare("measuring the training clips")
    record = RunRecord(
        config=config,
        normalisation=measure_normalisation(
            store, videos.train, config.geometry, seed=config.seed, threads=threads, progress=tell
        ),
        classes=store.index.classes,
        store=StoreIdentity.of(store),
        world_size=ranks.world_size,
        train_videos=len(videos.train),
        val_videos=len(videos.validation),
        held_out=videos.held_out,
        padded_share=plan.padded_share,
        provenance=provenance() | {"device": ranks.device_name},
        compute_threads=torch.get_num_threads(),
        choose_best=videos.choose_best,
        source=source,
        initial=initial,
        val_given=videos.given,
        class_weights=weights,
        kernel_choice=kernel_choice,
    )
    for line in [] if initial is None else said_of(initial, str(folder)):
        display.say(line)
    if initial is not None and (warning := warning_on(initial, record)):
        display.say(f"note: {warning}")
    folder.write_record(record)
    return record


def _restored(
    record: RunRecord, folder: RunFolder, ranks: Ranks, console: Console
) -> tuple[nn.Module, torch.optim.Optimizer, WeightAverage | None, Progress]:
    """Network, optimiser and mean weights as the newest whole checkpoint has them, or as they are at first."""
    config = record.config
    torch.manual_seed(config.seed)
    network = _network(config, ranks)
    if record.source is not None and (changed := changed_files(config.architecture, record.source)):
        console.print(
            f"note: {', '.join(changed)} changed since {folder} was started: from here on it is trained with the new "
            "code"
        )
    optimiser = optimiser_for(network, config)
    ema = config.recipe.ema
    average = None if ema is None else WeightAverage(_network(config, ranks), network, ema)
    mean = None if average is None else average.network
    checkpoints = Checkpoints(folder.path)

    def restore() -> Progress:
        if record.initial is not None and not checkpoints.exist:
            load_initial(record.initial, network, record.classes)
            if mean is not None:
                mean.load_state_dict(network.state_dict())
            checkpoints.save(Progress(), network, optimiser, mean)  # going on then does not need the source
        progress, trouble = checkpoints.restore(network, optimiser, mean)
        if trouble:
            console.print(f"warning: {trouble}")
        return progress

    progress = ranks.from_first(restore)
    if ranks.world_size > 1 and (progress.step or record.initial is not None):
        networks = [network] if mean is None else [network, mean]
        ranks.equalise([tensor for one in networks for tensor in one.state_dict().values()])
    if ranks.world_size > 1 and progress.step:
        ranks.equalise(memory_of(optimiser))
    return network, optimiser, average, progress


def _network(config: RunConfig, ranks: Ranks) -> nn.Module:
    """The run's network on the ranks' device, with its kernels and fresh weights."""
    network = build_network(config)
    place(network, config, ranks.device)
    use_kernels(network, config)
    if config.recipe.sync_batch_norm and ranks.world_size > 1:
        synchronise_norms(network)
    return network


def _streams(
    record: RunRecord, store: ClipStore, videos: RunVideos, ranks: Ranks, threads: int | None
) -> tuple[ClipStream, ClipStream | None]:
    """One rank's parts of the training clips, and of those held out if there are any."""
    config = record.config
    geometry = config.geometry
    shared: dict[str, Any] = {
        "batch_size": config.recipe.batch_size // ranks.world_size,
        "normalisation": record.normalisation,
        "device": ranks.device,
        "dtype": torch.bfloat16 if config.amp else torch.float32,
        "threads": threads,
        "rank": ranks.rank,
        "world_size": ranks.world_size,
    }
    training = ClipStream(store, _train_plan(store, videos, config), **shared)
    if not len(videos.validation):
        return training, None
    held_out = TestPlan(store.index, videos.validation, geometry, views=VALIDATION_VIEWS)
    return training, ClipStream(store, held_out, **shared)


def _train_plan(store: ClipStore, videos: RunVideos, config: RunConfig) -> TrainPlan:
    return TrainPlan(
        store.index,
        videos.train,
        config.geometry,
        seed=config.seed,
        flip=bool(config.flip),
        sampling=config.recipe.sampling,
        colour_jitter=config.recipe.colour_jitter or 0.0,
        blur=config.recipe.blur or 0.0,
    )


def _announce(record: RunRecord, folder: RunFolder, epoch_steps: int, ranks: Ranks, console: Console) -> None:
    geometry, ema = record.config.geometry, record.config.recipe.ema
    residual = f" at step {geometry.step}" if "residual" in geometry.streams else ""
    kept = "" if ema is None else f"; validated and saved: the moving average of the weights (EMA {ema:g})"
    devices = f"{ranks.world_size} x {ranks.device.type}" if ranks.world_size > 1 else ranks.device.type
    earlier = f"; devices: {record.devices_in_words}" if record.earlier_devices else ""
    if ranks.device.type == "cpu":
        devices += f", {torch.get_num_threads()} compute threads"
    console.print(
        f"{folder}: {record.architecture.network} on {geometry.modality}{residual}, {geometry.frames} frames of "
        f"{geometry.size}x{geometry.size}; {record.train_videos:,} training videos ({record.padded_share:.1%} shorter "
        f"than a clip), {record.val_videos:,} {'for validation' if record.val_given else 'held out'}; "
        f"epochs: {record.epochs_in_words}, of {epoch_steps:,} steps each, on {devices}{earlier}{kept}"
    )


def _result(folder: RunFolder, progress: Progress, throughput: Throughput) -> TrainResult:
    return TrainResult(
        run=str(folder),
        epochs=progress.epoch,
        steps=progress.step,
        clips_per_second=throughput.clips / throughput.seconds if throughput.clips else None,
        data_wait_share=throughput.wait_seconds / throughput.seconds if throughput.clips else None,
        video_top1=progress.val_video_top1,
        best_epoch=progress.best_epoch,
        best_video_top1=progress.best_video_top1,
    )
