"""A tiny store, and trainings of a tiny network on it that take seconds."""

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from itertools import count, product
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.conftest import PATIENCE_SECONDS
from tests.train.conftest import write_store

from resact.cache.codecs import build_codec
from resact.cache.settings import DatasetSettings, DecodeSettings, StoreSettings
from resact.cli import main
from resact.train.clips.measurement import measure_normalisation
from resact.train.runs.files.checkpoint import Checkpoints, Progress
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.history import read_metrics
from resact.train.runs.files.tensors import read_tensors
from resact.train.runs.training import train as training
from resact.train.runs.training.step import TrainStep
from resact.train.runs.training.train import TrainResult, train

_stores: list[torch.distributed.TCPStore] = []

CLASSES = ("Jump", "Run", "Walk")
GROUPS, CLIPS = 4, 2
"""A class; the first group is the test side of split1."""

SMALL = {
    "width": 1 / 16, "depths": (1, 1, 1, 1), "frames": 4, "size": 16, "epochs": 3, "batch_size": 4, "lr": 0.02,
}  # fmt: skip


def build_store(
    path: Path, *, groups: int = GROUPS, classes: tuple[str, ...] = CLASSES, seed: int = 0, source_fps: str = "25",
    sides: tuple[str, ...] = ("test",),
) -> Path:  # fmt: skip
    """Random frames of 32x40 pixels, lossless; 9 to 16 a video. `sides` are of a class's first groups."""
    dataset = DatasetSettings(
        name="tiny", videos=len(classes) * groups * CLIPS, all_classes=len(classes), classes=classes,
        splits=("split1", "split2"), flip_safe=True,
    )  # fmt: skip
    decode = DecodeSettings(fps="15", short_side=32, max_seconds=None, ffmpeg="7.0.2")
    settings = StoreSettings(dataset=dataset, decode=decode, codec="lz4", library=build_codec("lz4").library())
    random, videos = np.random.default_rng(seed), []
    for (label, name), group, clip in product(enumerate(classes), range(1, groups + 1), range(1, CLIPS + 1)):
        frames = random.integers(0, 256, (int(random.integers(9, 17)), 32, 40, 3), dtype=np.uint8)
        frames[..., label % 3] //= 4  # what tells the classes apart
        splits = {"split1": (*sides, "train")[min(group - 1, len(sides))], "split2": "train"}
        video_id = f"v_{name}_g{group:02}_c{clip:02}"
        videos.append(({"video_id": video_id, "label": label, "group": f"g{group:02}", "splits": splits}, frames))
    write_store(path, settings, videos, source_fps)
    return path


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four groups of two videos; never changed."""
    return build_store(tmp_path_factory.mktemp("stores") / "tiny.zarr")


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """As the processes have it, so that sums come out alike to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where results are alike to the bit; on a machine with a GPU, runs would go there."""
    if not request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


TrainTiny = Callable[..., TrainResult]


@pytest.fixture(scope="module", autouse=True)
def few_measured() -> Iterator[None]:
    """Trainings in this process measure mean and spread on few clips, to be quick."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "measure_normalisation", partial(measure_normalisation, clips=12))
        yield


def _train(store: Path, runs: Path, /, name: str = "a", **settings: Any) -> TrainResult:
    """Arguments of `train` may be among the settings."""
    own = ("store", "runs", "resume", "console", "checkpoint_seconds", "compute_threads", "allow_world_size_change")
    options = {"store": store, "runs": runs, "console": Console(quiet=True), "threads": 1}
    options |= {name: settings.pop(name) for name in own if name in settings}
    result = train(settings if options.get("resume") else SMALL | settings, name=name, **options)
    assert result is not None
    return result


@pytest.fixture
def train_tiny(tiny_store: Path, tmp_path: Path) -> TrainTiny:
    """`train` of the tiny network in this process, in `tmp_path / "runs"` unless told otherwise."""
    return partial(_train, tiny_store, tmp_path / "runs")


@pytest.fixture(scope="module")
def train_once(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainTiny]:
    """Like `train_tiny`, for runs that several tests of a module look at, or copy to change them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        yield partial(_train, tiny_store, tmp_path_factory.mktemp("once"), compute_threads=1)


@pytest.fixture(scope="module")
def done(train_once: TrainTiny) -> tuple[TrainResult, str]:
    """A training that has ended, and what it has printed."""
    results: list[TrainResult] = []
    said = said_by(lambda **console: results.append(train_once(**console)))
    return results[0], said


@pytest.fixture
def run(done: tuple[TrainResult, str], tmp_path: Path) -> RunFolder:
    """The test's own copy of its folder."""
    return RunFolder(shutil.copytree(done[0].run, tmp_path / "runs" / "a"))


def said_by(train: Callable[..., Any], *arguments: Any, **settings: Any) -> str:
    """What a training prints where there is no terminal."""
    text = StringIO()
    train(*arguments, console=Console(file=text, soft_wrap=True), **settings)
    return text.getvalue()


class PowerCutError(Exception):
    """None that the training knows."""


def cut_power(train: TrainTiny, *, after_epoch: int = 1, after_step: int | None = None, **settings: Any) -> None:
    """In a training: the power goes after the first epoch, another one, or a step."""
    save = Checkpoints.save

    def cut(self: Checkpoints, progress: Progress, *state: Any) -> None:
        save(self, progress, *state)
        if progress.epoch == after_epoch if after_step is None else progress.step == after_step:
            raise PowerCutError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, "save", cut)
        with pytest.raises(PowerCutError):
            train(checkpoint_seconds=300.0 if after_step is None else 0.0, **settings)


@pytest.fixture
def train_cut(train_tiny: TrainTiny, tmp_path: Path) -> Callable[..., RunFolder]:
    """Like `train_tiny`, but with a power cut; arguments as in `cut_power`."""

    def run(name: str = "a", **settings: Any) -> RunFolder:
        cut_power(train_tiny, name=name, **settings)
        return RunFolder(tmp_path / "runs" / name)

    return run


def arguments(store: Path, runs: Path, name: str, *more: object, **settings: Any) -> list[str]:
    """Of `resact train` of the tiny network, as users type them."""
    words: list[object] = ["train", "--store", store, "--runs", runs, "--run", name, "--threads", 1]
    for option, value in (SMALL | settings).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        words += [f"--{option.replace('_', '-')}", text]
    return [*map(str, [*words, *more])]


def start(words: list[str], output: Path, environment: dict[str, str] | None = None) -> ForkServerProcess:
    """`resact ...` in a process of its own, one thread; what it prints goes to a file.

    Forked from a process that has imported everything, which saves three seconds each time. Where `SPY` is in its
    environment, it notes the positions of each step's clips there; where `HOLD` is, `N:FILE`, it waits before its
    step N + 1 until that file is there, so that whatever is to strike it cannot come too late.
    """
    process = multiprocessing.get_context("forkserver").Process(
        target=run_resact, args=(words, output, environment or {})
    )
    process.start()
    return process


def start_ranks(words: list[str], folder: Path, world_size: int = 2, **environment: str) -> list[ForkServerProcess]:
    """As torchrun starts them; each writes `<rank>.txt` and `<rank>.spy` in the folder."""
    # Held here, as torchrun's agent does, so that nobody else takes the port before they do.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _stores.append(store)
    shared = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"} | environment
    return [
        start(
            words,
            folder / f"{rank}.txt",
            shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "SPY": str(folder / f"{rank}.spy")},
        )
        for rank in range(world_size)
    ]


GLOO_LEFT = 99
"""Exit code of a process from `start` that gloo's threads have outlived: such a one may never end."""


def finish(processes: list[Any], code: int) -> None:
    for process in processes:
        process.join(PATIENCE_SECONDS)
    assert [process.exitcode for process in processes] == [code] * len(processes)


def run_resact(words: list[str], output: Path, environment: dict[str, str]) -> None:
    """What a process of `start` does."""
    os.environ |= environment
    torch.cuda.is_available = lambda: False
    if spied := environment.get("SPY"):
        _spy_on_steps(Path(spied))
    if hold := environment.get("HOLD"):
        _hold_steps(int(hold.partition(":")[0]), Path(hold.partition(":")[2]))
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = ["resact", *words]
    try:
        main()
    finally:  # the traceback is still held here, and by it what the training had
        threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        if any("gloo" in name for name in threads):
            os._exit(GLOO_LEFT)


def _spy_on_steps(path: Path) -> None:
    take_step = TrainStep.__call__

    def noting(self: TrainStep, batch: dict[str, Any], **arguments: Any) -> torch.Tensor:
        with path.open("a") as file:
            file.write(json.dumps([*batch["positions"]]) + "\n")
        return take_step(self, batch, **arguments)

    TrainStep.__call__ = noting  # type: ignore[method-assign]


def _hold_steps(taken: int, go: Path) -> None:
    take_step, steps = TrainStep.__call__, count()

    def held(self: TrainStep, batch: dict[str, Any], **arguments: Any) -> torch.Tensor:
        step = next(steps)
        while step == taken and not go.exists():
            time.sleep(0.01)
        return take_step(self, batch, **arguments)

    TrainStep.__call__ = held  # type: ignore[method-assign]


def finish_on_two_ranks(work: Callable[..., None], *arguments: Any) -> None:
    """`work(rank, *arguments)` in two processes, which have to end well."""
    forks = multiprocessing.get_context("forkserver")
    processes = [forks.Process(target=work, args=(rank, *arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    finish(processes, 0)


def noted(folder: Path, name: str = "step") -> list[Any]:
    """A figure of each step, as `metrics.jsonl` has it."""
    return [line[name] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "step"]


def weights_of(folder: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return read_tensors(folder / f"{which}.safetensors")[0]


def assert_same_weights(one: Path, other: Path, which: str = "last") -> None:
    """To the bit."""
    first, second = weights_of(one, which), weights_of(other, which)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
