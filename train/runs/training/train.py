"""`resact train`: checks everything, starts or resumes a run, and trains it to its end."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from resact.cache.provenance import provenance
from resact.errors import Interrupted, UsageError
from resact.train.clips.measurement import measure_normalisation
from resact.train.clips.sampling import TestPlan, TrainPlan
from resact.train.clips.stream import ClipStream
from resact.train.networks.architecture import refuse_for_own
from resact.train.networks.own import changed_files
from resact.train.networks.synchronised_norm import synchronise_norms
from resact.train.runs.distributed import Ranks, open_ranks
from resact.train.runs.execution import build_network, place, use_kernels
from resact.train.runs.files.checkpoint import Checkpoints, Progress, memory_of
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.history import History
from resact.train.runs.files.record import RunRecord, StoreIdentity
from resact.train.runs.files.tensorboard import has_tensorboard
from resact.train.runs.training.display import TrainDisplay
from resact.train.runs.training.fine_tuning import load_initial, optimiser_for, said_of, warning_on
from resact.train.runs.training.loop import Loop
from resact.train.runs.training.preparation import Preparation, prepare
from resact.train.runs.training.resumption import compute_threads_restored, saved_record, write_changes
from resact.train.runs.training.stopping import stop_on_signals
from resact.train.runs.training.validation import VALIDATION_VIEWS
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
    with (
        open_ranks() as ranks,
        compute_threads_restored(),
        _interrupted_with_the_way_on(folder, ranks),
        TrainDisplay(console if ranks.leads else Console(quiet=True), folder.name) as display,
    ):
        prepared = prepare(
            settings,
            asked,
            folder,
            store,
            ranks,
            display,
            resume=resume,
            allow_world_size_change=allow_world_size_change,
            compute_threads=compute_threads,
        )
        result = _trained(prepared, folder, ranks, display, threads, checkpoint_seconds)
        return result if ranks.leads else None


@contextmanager
def _interrupted_with_the_way_on(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    """A second ctrl-C, or one before the first step, ends the training at once."""
    try:
        yield
    except KeyboardInterrupt:
        if not folder.exists:
            raise Interrupted("stopped before the first step: the same command starts again") from None
        again = folder.resume_command(ranks.world_size, ranks.hosts)
        raise Interrupted(f"stopped at once; continue from the last checkpoint with `{again}`") from None


def _trained(
    prepared: Preparation,
    folder: RunFolder,
    ranks: Ranks,
    display: TrainDisplay,
    threads: int | None,
    checkpoint_seconds: float,
) -> TrainResult:
    config, console, saved = prepared.config, display.console, prepared.saved
    together = ranks.world_size > 1  # a signal to one of them stops all, after a step
    with ExitStack() as held, stop_on_signals(can_wait=together) as wish:
        ranks.from_first(lambda: held.enter_context(folder.lock()))
        if prepared.record is None:
            ranks.from_first(lambda: _require_new(folder))
        held.enter_context(_false_start_undone(folder, new=saved is None and ranks.leads))
        record = prepared.record or ranks.from_first(lambda: _begin(prepared, folder, ranks, threads, display))
        display.prepare("building the network")
        network, optimiser, average, progress = _restored(record, folder, ranks, console)
        training, validation = _streams(record, prepared, ranks, threads)
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
                record=record,
                folder=folder,
                network=network,
                optimiser=optimiser,
                average=average,
                progress=progress,
                stream=training,
                validation=validation,
                ranks=ranks,
                display=display,
                history=history,
                wish=wish,
                checkpoint_seconds=checkpoint_seconds,
            )
            loop.run()
    clips, seconds = loop.throughput.clips, loop.throughput.seconds
    return TrainResult(
        run=str(folder),
        epochs=progress.epoch,
        steps=progress.step,
        clips_per_second=clips / seconds if clips else None,
        data_wait_share=loop.throughput.wait_seconds / seconds if clips else None,
        video_top1=progress.val_video_top1,
        best_epoch=progress.best_epoch,
        best_video_top1=progress.best_video_top1,
    )


@contextmanager
def _false_start_undone(folder: RunFolder, *, new: bool) -> Iterator[None]:
    """A new run that fails or is stopped before its first step leaves nothing: the next try would be told of it."""
    try:
        yield
    except Interrupted:
        raise
    except (Exception, KeyboardInterrupt):
        if new and not folder.has_steps:
            folder.discard()
        raise


def _checked_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UsageError(f"got --run {name!r}, expected the name of one folder below --runs")
    return name


def _require_new(folder: RunFolder) -> None:
    saved_record(folder, resume=False)  # another process may have begun it before this one held the lock
    if Checkpoints(folder.path).exist:
        raise UsageError(f"{folder} has checkpoints, but no {folder.config.name}: restore it, or choose another --run")


def _begin(
    prepared: Preparation, folder: RunFolder, ranks: Ranks, threads: int | None, display: TrainDisplay
) -> RunRecord:
    """Measure what has to be measured, and write `config.json`."""
    config, store, videos, initial = prepared.config, prepared.store, prepared.videos, prepared.initial
    plan = _train_plan(prepared)
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
        source=prepared.source,
        initial=initial,
        val_given=videos.given,
        class_weights=prepared.class_weights,
        kernel_choice=prepared.kernel_choice,
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
    record: RunRecord, prepared: Preparation, ranks: Ranks, threads: int | None
) -> tuple[ClipStream, ClipStream | None]:
    """One rank's parts of the training clips, and of those held out if there are any."""
    config, store, validation = record.config, prepared.store, prepared.videos.validation
    shared: dict[str, Any] = {
        "batch_size": config.recipe.batch_size // ranks.world_size,
        "normalisation": record.normalisation,
        "device": ranks.device,
        "dtype": torch.bfloat16 if config.amp else torch.float32,
        "threads": threads,
        "rank": ranks.rank,
        "world_size": ranks.world_size,
    }
    training = ClipStream(store, _train_plan(prepared), **shared)
    if not len(validation):
        return training, None
    held_out = TestPlan(store.index, validation, config.geometry, views=VALIDATION_VIEWS)
    return training, ClipStream(store, held_out, **shared)


def _train_plan(prepared: Preparation) -> TrainPlan:
    config = prepared.config
    return TrainPlan(
        prepared.store.index,
        prepared.videos.train,
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
