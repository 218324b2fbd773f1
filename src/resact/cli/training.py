"""Commands that train networks."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from resact.cli import complete
from resact.cli.common import JsonOption, open_console, print_json
from resact.errors import UsageError

app = typer.Typer()

CLIPS, NETWORK, RECIPE = "Clips", "Network", "Recipe"  # headings of the help

RunsOption = Annotated[Path, typer.Option(metavar="DIR", help="Folder of runs.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        help="Clip store; left out, the run's own, or for a new run the only one in the data folder.",
        autocompletion=complete.stores,
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Threads that read clips; left out, one a core.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="toml file of settings, such as `lr = 0.02`; options given here win over it."),
]
ModalityOption = Annotated[
    str | None,
    typer.Option(
        help="rgb, residual or both; left out, residual.",
        rich_help_panel=CLIPS,
        autocompletion=complete.among("resact.train.clips.geometry:MODALITIES"),
    ),
]
StepOption = Annotated[
    int | None,
    typer.Option(
        metavar="S", help="Frames between the two that a residual subtracts; left out, 1.", rich_help_panel=CLIPS
    ),
]
ArchOption = Annotated[
    str | None,
    typer.Option(
        help="p3d-resnet50 or 3d-resnet50; left out, p3d-resnet50.",
        rich_help_panel=NETWORK,
        autocompletion=complete.among("resact.train.runs.files.config:ARCHS"),
    ),
]
ConvOption = Annotated[
    str | None,
    typer.Option(
        help="separable or dense convolutions in the modules; left out, separable.",
        rich_help_panel=NETWORK,
        autocompletion=complete.among("resact.train.runs.files.config:CONVS"),
    ),
]
AttentionOption = Annotated[
    bool | None,
    typer.Option(
        "--attention/--no-attention", help="Channel attention in each module; left out, on.", rich_help_panel=NETWORK
    ),
]
FeatureResidualOption = Annotated[
    bool | None,
    typer.Option(
        "--feature-residual/--no-feature-residual", help="Residual of features; left out, on.", rich_help_panel=NETWORK
    ),
]
StemChannelsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Channels of each conv1 stream; left out, 64 for two, 128 for one.", rich_help_panel=NETWORK
    ),
]
WidthOption = Annotated[
    float | None, typer.Option(metavar="W", help="Multiplies all channels; left out, 1.", rich_help_panel=NETWORK)
]
DepthsOption = Annotated[
    str | None,
    typer.Option(metavar="A,B,C,D", help="Modules in res2 to res5; left out, 3,4,6,3.", rich_help_panel=NETWORK),
]
FramesOption = Annotated[
    int | None, typer.Option(metavar="T", help="Frames of a clip; left out, 32.", rich_help_panel=CLIPS)
]
SizeOption = Annotated[
    int | None, typer.Option(metavar="D", help="Height and width of a clip; left out, 112.", rich_help_panel=CLIPS)
]
ShortClipsOption = Annotated[
    str | None,
    typer.Option(
        help="What follows a video that is too short: mirror, loop or hold; left out, mirror.",
        rich_help_panel=CLIPS,
        autocompletion=complete.among("resact.train.clips.geometry:SHORT_CLIPS"),
    ),
]
SplitOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Split; left out, the store's first.", rich_help_panel=CLIPS)
]
EpochsOption = Annotated[
    int | None, typer.Option(metavar="N", help="One clip a video each; left out, 200.", rich_help_panel=RECIPE)
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Clips a step, on all devices together; left out, 32.", rich_help_panel=RECIPE),
]
LrOption = Annotated[
    float | None, typer.Option(metavar="LR", help="Highest learning rate; left out, 0.05.", rich_help_panel=RECIPE)
]
AmpOption = Annotated[
    bool | None, typer.Option("--amp/--no-amp", help="bfloat16 autocast; left out, on CUDA.", rich_help_panel=RECIPE)
]
CompileOption = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="torch.compile the network.", rich_help_panel=RECIPE)
]
KernelsOption = Annotated[
    str | None,
    typer.Option(
        help="fused, eager, or auto: fused where they work and are right; left out, auto.",
        rich_help_panel=RECIPE,
        autocompletion=complete.among("resact.train.networks.kernels:KERNELS"),
    ),
]
FlipOption = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        help="Mirror every other clip; left out, where the data set is safe for it.",
        rich_help_panel=CLIPS,
    ),
]
CheckpointSecondsOption = Annotated[
    float, typer.Option(metavar="S", help="From one checkpoint to the next; each epoch ends with one anyhow.")
]


@app.command()
def train(
    store: StoreOption = None,
    runs: RunsOption = Path("runs"),
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the run; left out, by its settings: residual-s2-0.")
    ] = None,
    modality: ModalityOption = None,
    step: StepOption = None,
    arch: ArchOption = None,
    conv: ConvOption = None,
    attention: AttentionOption = None,
    feature_residual: FeatureResidualOption = None,
    stem_channels: StemChannelsOption = None,
    width: WidthOption = None,
    depths: DepthsOption = None,
    frames: FramesOption = None,
    size: SizeOption = None,
    short_clips: ShortClipsOption = None,
    split: SplitOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    lr: LrOption = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of everything that is drawn; left out, 0.", rich_help_panel=RECIPE)
    ] = None,
    amp: AmpOption = None,
    compile_: CompileOption = None,
    kernels: KernelsOption = None,
    flip: FlipOption = None,
    val_groups: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Training groups of each class held out to validate on; left out, 1.",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run, if there is one.")] = False,
    config: ConfigOption = None,
    threads: ThreadsOption = None,
    checkpoint_seconds: CheckpointSecondsOption = 300.0,
    json_output: JsonOption = False,
) -> None:
    """Train a network from a clip store. Stopped at any moment, `--resume` goes on to the same result."""
    from resact.train.runs.training.train import train as run_training

    settings = asked_settings(
        config,
        modality=modality,
        step=step,
        arch=arch,
        conv=conv,
        attention=attention,
        feature_residual=feature_residual,
        stem_channels=stem_channels,
        width=width,
        depths=depths,
        frames=frames,
        size=size,
        short_clips=short_clips,
        split=split,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        amp=amp,
        compile=compile_,
        kernels=kernels,
        flip=flip,
        val_groups=val_groups,
    )
    if not checkpoint_seconds > 0:
        raise UsageError(f"got --checkpoint-seconds {checkpoint_seconds:g}, expected a number above 0")
    console = open_console(json_output)
    result = run_training(
        settings,
        runs=runs,
        name=run,
        store=store,
        resume=resume,
        threads=threads,
        checkpoint_seconds=checkpoint_seconds,
        console=console,
    )
    if result is not None:
        console.print(_summary(asdict(result)))
        if json_output:
            print_json(asdict(result))


@app.command()
def reproduce(
    store: StoreOption = None,
    runs: RunsOption = Path("runs"),
    tables: Annotated[str, typer.Option(metavar="N,N", help="Tables of the paper.")] = "2,3,4",
    seeds: Annotated[str, typer.Option(metavar="N,N", help="Each run is trained with each.")] = "0",
    conv: ConvOption = None,
    stem_channels: StemChannelsOption = None,
    width: WidthOption = None,
    depths: DepthsOption = None,
    frames: FramesOption = None,
    size: SizeOption = None,
    short_clips: ShortClipsOption = None,
    split: SplitOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    lr: LrOption = None,
    amp: AmpOption = None,
    compile_: CompileOption = None,
    kernels: KernelsOption = None,
    flip: FlipOption = None,
    config: ConfigOption = None,
    threads: ThreadsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Train and evaluate the nine runs of the paper's tables 2, 3 and 4. Stopped, the same command does the rest."""
    from resact.cache.places import find_store
    from resact.cache.store import open_store
    from resact.train.runs.reproduce import reproduce as run_all

    settings = asked_settings(
        config,
        conv=conv,
        stem_channels=stem_channels,
        width=width,
        depths=depths,
        frames=frames,
        size=size,
        short_clips=short_clips,
        split=split,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        amp=amp,
        compile=compile_,
        kernels=kernels,
        flip=flip,
    )
    result = run_all(
        settings,
        open_store(store or find_store()),
        runs,
        tables=_numbers("--tables", tables),
        seeds=_numbers("--seeds", seeds),
        threads=threads,
        dry_run=dry_run,
        console=open_console(json_output),
    )
    if json_output:
        print_json(result)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"got {option} {text!r}, expected whole numbers with commas between") from None


def asked_settings(config: Path | None, **options: Any) -> dict[str, Any]:
    """Settings by name: those of the toml file, and over them the options that were given."""
    from resact.train.runs.files.config import read_settings

    given = {name: value for name, value in options.items() if value is not None}
    if "depths" in given:
        given["depths"] = _numbers("--depths", given["depths"])
    return (read_settings(config) if config is not None else {}) | given


def _summary(result: dict[str, Any]) -> str:
    line = f"{result['run']}: {result['epochs']:,} epochs, {result['steps']:,} steps"
    if result["clips_per_second"] is not None:
        line += f", {result['clips_per_second']:,.1f} clips/s, {result['data_wait_share']:.1%} waiting for data"
    if result["video_top1"] is not None:
        line += (
            f"; top-1 of held-out videos {result['video_top1']:.1%}, "
            f"best {result['best_video_top1']:.1%} after epoch {result['best_epoch']}"
        )
    return line
