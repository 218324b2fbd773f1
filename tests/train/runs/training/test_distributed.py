"""Several gloo processes on the CPU, as torchrun starts them, on one host or two."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tests.conftest import PATIENCE_SECONDS, wait_until
from tests.train.runs.conftest import (
    SMALL,
    arguments,
    assert_same_weights,
    finish,
    finish_on_two_ranks,
    noted,
    start_ranks,
    weights_of,
)
from torch import distributed as dist
from torch import nn
from torch.nn import functional

from resact.cache.store import open_store
from resact.errors import UsageError
from resact.train.clips.sampling import TestPlan, TrainPlan, batches
from resact.train.clips.stream import ClipStream
from resact.train.networks.models import ActionNetwork
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder, program
from resact.train.runs.files.history import read_metrics
from resact.train.runs.files.tensors import read_header
from resact.train.runs.training import train as training
from resact.train.runs.training.loop import dropout_seed
from resact.train.runs.training.optimiser import build_optimiser, learning_rate
from resact.train.runs.training.step import TrainStep
from resact.train.runs.training.validation import VALIDATION_VIEWS, validate
from resact.train.runs.training.videos import choose_videos

EPOCHS = 3
SETTINGS: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 4, "val_groups": 0, "modality": "both"}
CLIPS, EPOCH_STEPS = 18, 5  # steps of 3 or 4 clips: the two parts differ by one in some


@pytest.fixture(scope="module")
def two_ranks(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs folder of a finished training by two processes."""
    runs = tmp_path_factory.mktemp("two")
    finish(start_ranks(arguments(tiny_store, runs, "a", "--json", **SETTINGS), runs), 0)
    return runs


def test_every_clip_of_an_epoch_is_seen_once(two_ranks: Path) -> None:
    seen = [[json.loads(line) for line in (two_ranks / f"{rank}.spy").read_text().splitlines()] for rank in (0, 1)]
    assert [len(steps) for steps in seen] == [EPOCHS * EPOCH_STEPS] * 2
    sizes = {tuple(len(steps[i]) for steps in seen) for i in range(EPOCHS * EPOCH_STEPS)}
    assert sizes == {(2, 2), (1, 2)}, "parts of a step that differ are what makes this a test"
    for epoch in range(EPOCHS):
        steps = slice(epoch * EPOCH_STEPS, (epoch + 1) * EPOCH_STEPS)
        assert sorted(position for rank in seen for part in rank[steps] for position in part) == list(range(CLIPS))


def test_only_the_first_rank_writes_and_prints(two_ranks: Path) -> None:
    assert json.loads((two_ranks / "0.txt").read_text().splitlines()[-1])["steps"] == EPOCHS * EPOCH_STEPS
    assert "clips/s" not in (two_ranks / "1.txt").read_text()
    assert RunFolder(two_ranks / "a").read_record().world_size == 2
    assert noted(two_ranks / "a", "clips")[:EPOCH_STEPS] == [3, 4, 3, 4, 4]


def halves_apart(folder: Path, store_path: Path) -> tuple[list[float], ActionNetwork]:
    """The same training in one process: each step's two parts go through the network one after the other, so that
    norms see them apart; the loss is the mean over both. Running statistics are those of the first part."""
    record, store = RunFolder(folder).read_record(), open_store(store_path)
    config = record.config
    torch.manual_seed(config.seed)
    network = ActionNetwork(record.architecture)
    optimiser = build_optimiser(network, config.recipe)
    videos = choose_videos(store.index, "split1", val_groups=0, seed=config.seed)
    plan = TrainPlan(store.index, videos.train, config.geometry, seed=config.seed, flip=True)
    streams = [
        ClipStream(store, plan, batch_size=2, normalisation=record.normalisation, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    curve, step = [], 0
    for epoch in range(EPOCHS):
        with streams[0].epoch(epoch) as first, streams[1].epoch(epoch) as second:
            for positions, *parts in zip(batches(CLIPS, 4), first, second, strict=True):
                loss = 0.0
                optimiser.zero_grad()
                for rank, part in enumerate(parts):
                    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
                    torch.manual_seed(dropout_seed(config.seed, step, rank))
                    logits = network(rgb=part["rgb"], residual=part["residual"])
                    smoothed = functional.cross_entropy(logits, part["label"], label_smoothing=0.1, reduction="sum")
                    (smoothed / len(positions)).backward()
                    loss += smoothed.item() / len(positions)
                    if rank:
                        for name, buffer in network.named_buffers():
                            buffer.copy_(kept[name])
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(config.recipe, step, epoch_steps=EPOCH_STEPS)
                optimiser.step()
                curve.append(loss)
                step += 1
    return curve, network


def test_the_loss_curve_equals_one_process_that_normalises_the_halves_apart(two_ranks: Path, tiny_store: Path) -> None:
    curve, network = halves_apart(two_ranks / "a", tiny_store)
    assert noted(two_ranks / "a", "loss") == pytest.approx(curve, rel=1e-3)
    assert noted(two_ranks / "a", "loss")[:3] == pytest.approx(curve[:3], rel=1e-5)
    weights = weights_of(two_ranks / "a")
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-3, msg=name)


def test_one_process_normalises_otherwise(two_ranks: Path, train_tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparison above would not tell whether the halves were normalised apart; all else is the same."""
    measured = RunFolder(two_ranks / "a").read_record().normalisation
    monkeypatch.setattr(training, "measure_normalisation", lambda *_, **__: measured)
    whole = noted(Path(train_tiny("whole", **SETTINGS).run), "loss")
    apart = noted(two_ranks / "a", "loss")
    assert apart[0] != pytest.approx(whole[0], rel=1e-3)


def stop_in_an_epoch(words: list[str], folder: Path, *, rank: int) -> int:
    """Two ranks in their second epoch, of which this one gets SIGTERM; the step that was saved, of the run `a`."""
    steps, go, spied = EPOCH_STEPS + 2, folder / "go", folder / f"{rank}.spy"
    processes = start_ranks(words, folder, HOLD=f"{steps}:{go}")
    wait_until(lambda: spied.exists() and len(spied.read_text().splitlines()) == steps, *processes)
    os.kill(processes[rank].pid, signal.SIGTERM)
    go.touch()
    finish(processes, 130)
    step: int = read_header(folder / "a" / "last.ckpt")["step"]
    assert EPOCH_STEPS < step < EPOCHS * EPOCH_STEPS, "it was struck in an epoch"
    return step


def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_exactly(
    two_ranks: Path, tiny_store: Path, tmp_path: Path
) -> None:
    words = arguments(tiny_store, tmp_path, "a", "--resume", **SETTINGS)
    stop_in_an_epoch(words, tmp_path, rank=1)
    assert "continue with `torchrun --nproc-per-node 2 -m -- resact train --runs" in (tmp_path / "0.txt").read_text()
    finish(start_ranks(words, tmp_path), 0)
    assert_same_weights(tmp_path / "a", two_ranks / "a")
    assert noted(tmp_path / "a", "loss") == noted(two_ranks / "a", "loss")


def test_validation_by_two_equals_validation_by_one(tiny_store: Path, tmp_path: Path) -> None:
    settings = SMALL | {"epochs": 2, "batch_size": 4, "lr": 0.2, "ema": 0.5, "accumulate": 2}
    finish(start_ranks(arguments(tiny_store, tmp_path, "a", **settings), tmp_path), 0)
    *_, line = [line for line in read_metrics(tmp_path / "a" / "metrics.jsonl") if line["kind"] == "epoch"]
    record, store = RunFolder(tmp_path / "a").read_record(), open_store(tiny_store)
    network, _ = RunFolder(tmp_path / "a").read_network()
    videos = choose_videos(store.index, "split1", val_groups=1, seed=record.config.seed)
    plan = TestPlan(store.index, videos.validation, record.config.geometry, views=VALIDATION_VIEWS)
    stream = ClipStream(store, plan, batch_size=5, normalisation=record.normalisation)
    alone = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
    result = validate(network, stream, alone, config=record.config, stopping=lambda: False)
    assert result is not None
    assert line["val_video_top1"] == result.video_top1
    assert line["val_clip_top1"] == pytest.approx(result.clip_top1)
    assert 0 < result.clip_top1 < 1, "figures that any network would have show nothing"


class OneLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(rgb)
        return out


def stepped(ranks: Ranks, accumulate: int) -> torch.Tensor:
    """Weights of a layer after two steps of nine clips, of which the ranks have four and five."""
    config = RunConfig.of({"modality": "rgb", "amp": False, "accumulate": accumulate})
    torch.manual_seed(0)
    network = OneLayer()
    step = TrainStep(config, network, build_optimiser(network, config.recipe), ranks)
    clips, label = torch.randn(2, 9, 5), torch.arange(9) % 3
    mine = slice(9) if ranks.world_size == 1 else (slice(4), slice(4, 9))[ranks.rank]
    for batch in clips:
        step({"rgb": batch[mine], "label": label[mine]}, clips=9, lr=0.1, seed=0)
    return network.fc.weight.detach()


def step_as_rank(rank: int, folder: Path, accumulate: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    weights = stepped(Ranks(rank=rank, world_size=2, device=torch.device("cpu")), accumulate)
    torch.save(weights, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_a_batch_in_parts_is_a_step_of_all_ranks_together(tmp_path: Path) -> None:
    finish_on_two_ranks(step_as_rank, tmp_path, 3)
    whole = stepped(Ranks(rank=0, world_size=1, device=torch.device("cpu")), 1)
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), whole)


def test_a_run_that_another_training_holds_ends_every_rank(tiny_store: Path, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a").lock():
        finish(start_ranks(arguments(tiny_store, tmp_path, "a", **SETTINGS), tmp_path), 1)
    assert "another training is writing to" in (tmp_path / "0.txt").read_text()
    assert "Traceback" not in (tmp_path / "1.txt").read_text()


def positions(folder: Path, world_size: int) -> list[list[int]]:
    """Of each step's clips, on all ranks together."""
    seen = [
        [json.loads(line) for line in (folder / f"{rank}.spy").read_text().splitlines()] for rank in range(world_size)
    ]
    return [[position for part in parts for position in part] for parts in zip(*seen, strict=True)]


def test_another_number_of_devices_cannot_go_on_unless_it_is_allowed(two_ranks: Path, train_tiny) -> None:
    words = (
        "was started on 2 devices, not 1.*torchrun --nproc-per-node 2 -m -- resact.*"
        "or add --allow-world-size-change if the result may differ$"
    )
    with pytest.raises(UsageError, match=words):
        train_tiny("a", resume=True, runs=two_ranks)
    with pytest.raises(UsageError, match=r"^got --allow-world-size-change without --resume: .*; leave it out$"):
        train_tiny("b", allow_world_size_change=True)


def test_a_run_goes_on_with_fewer_devices_and_the_same_clips(two_ranks: Path, tiny_store: Path, tmp_path: Path) -> None:
    words = arguments(tiny_store, tmp_path, "a", "--resume", **SETTINGS)
    step = stop_in_an_epoch(words, tmp_path, rank=0)
    words.append("--allow-world-size-change")
    (three := tmp_path / "three").mkdir()
    finish(start_ranks(words, three, 3), 2)
    assert "got --batch-size 4 for 3 devices, expected a multiple" in (three / "0.txt").read_text()
    (one := tmp_path / "one").mkdir()
    finish(start_ranks(words, one, 1), 0)
    assert positions(tmp_path, 2)[:step] + positions(one, 1) == positions(two_ranks, 2)
    said = (one / "0.txt").read_text()
    assert "continues on 1 device instead of 2 devices. Clips and their order stay the same." in said
    assert "batch norm uses the statistics of 4 clips instead of 2, dropout draws other masks" in said
    record = RunFolder(tmp_path / "a").read_record()
    assert (record.world_size, record.earlier_devices) == (1, ((2, step),))
    assert f"devices: 1 device (2 up to step {step})" in said
    before, undisturbed = noted(tmp_path / "a", "loss"), noted(two_ranks / "a", "loss")
    assert before[:step] == undisturbed[:step]
    assert before[step] != pytest.approx(undisturbed[step], rel=1e-4), "what batch norm and dropout do differs"


def test_a_killed_run_goes_on_with_more_devices_and_the_same_clips(
    two_ranks: Path, tiny_store: Path, tmp_path: Path
) -> None:
    words = arguments(tiny_store, tmp_path, "a", "--resume", "--allow-world-size-change", **SETTINGS)
    (one := tmp_path / "one").mkdir()
    [process] = start_ranks(words, one, 1, HOLD=f"{EPOCH_STEPS + 2}:{tmp_path / 'never'}")
    spied = one / "0.spy"
    wait_until(lambda: spied.exists() and len(spied.read_text().splitlines()) == EPOCH_STEPS + 2, process)
    process.kill()
    finish([process], -signal.SIGKILL)
    assert read_header(tmp_path / "a" / "last.ckpt")["step"] == EPOCH_STEPS
    (two := tmp_path / "two").mkdir()
    finish(start_ranks(words, two), 0)
    assert positions(one, 1)[:EPOCH_STEPS] + positions(two, 2) == positions(two_ranks, 2)
    assert "continues on 2 devices instead of 1 device" in (two / "0.txt").read_text()
    assert "continues on" not in (two / "1.txt").read_text()
    assert RunFolder(tmp_path / "a").read_record().earlier_devices == ((1, EPOCH_STEPS),)


@pytest.mark.parametrize(
    ("earlier", "now", "step", "then", "expected"),
    [
        ((), 2, 7, 1, ((2, 7),)),
        ((), 2, 7, 2, ()),
        ((), 2, 0, 1, ()),
        (((2, 7),), 1, 9, 4, ((2, 7), (1, 9))),
        (((2, 7),), 1, 7, 2, ()),  # no step was taken on one
        (((2, 7),), 1, 7, 4, ((2, 7),)),
        (((2, 7),), 1, 5, 1, ((2, 5),)),  # a damaged checkpoint has cost the steps after 5
        (((2, 7),), 1, 5, 2, ()),
    ],
)
def test_a_record_says_which_steps_were_taken_on_how_many_devices(
    two_ranks: Path, earlier: Any, now: int, step: int, then: int, expected: Any
) -> None:
    record = replace(RunFolder(two_ranks / "a").read_record(), world_size=now, earlier_devices=earlier)
    changed = record.with_devices(then, step=step)
    assert changed == replace(record, world_size=then, earlier_devices=expected)
    assert type(record).from_text(changed.to_text(), "here") == changed


def test_batches_must_go_round(tiny_store: Path, tmp_path: Path) -> None:
    processes = start_ranks(arguments(tiny_store, tmp_path, "a", **SETTINGS | {"batch_size": 5}), tmp_path)
    finish(processes, 2)
    assert "got --batch-size 5 for 2 devices, expected a multiple" in (tmp_path / "0.txt").read_text()
    assert (tmp_path / "1.txt").read_text() == "", "once is enough"
    assert not (tmp_path / "a").exists()


# Two hosts: two loopback addresses, each with an agent of torchrun and a process of its own -------------------

HOSTS = ("127.0.0.1", "127.0.0.2")


def free_port() -> int:
    """One that the system gives to no connection of its own."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOSTS[0], port))
            except OSError:
                continue
            return port


@contextmanager
def two_hosts(words: list[str], folder: Path, module: str, **environment: str) -> Iterator[list[subprocess.Popen[str]]]:
    """The line of docs/cluster.md on each host, its output in `<host>.txt`; at the end, nothing of them is left."""
    start = program(len(HOSTS), hosts=len(HOSTS))
    start[start.index("HOST:29500")] = f"{HOSTS[0]}:{free_port()}"
    assert (start[0], start[-1]) == ("torchrun", "resact")
    torchrun, agents = [sys.executable, "-m", "torch.distributed.run"], []
    with ExitStack() as opened:
        for host in HOSTS:
            said = opened.enter_context((folder / f"{host}.txt").open("w"))
            # Which of real hosts is HOST, torchrun sees by itself; both of these addresses are this machine's.
            meeting = f"--rdzv-conf=is_host={int(host == HOSTS[0])},read_timeout=600"
            own = {"OUTPUT": str(folder / f"{host}.rank"), "SPY": str(folder / f"{host}.spy"), "OMP_NUM_THREADS": "1"}
            agents.append(
                subprocess.Popen(
                    [*torchrun, "--local-addr", host, meeting, *start[1:-1], module, *words],
                    cwd=Path(__file__).parents[4],
                    env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | own | environment,
                    stdout=said,
                    stderr=said,
                    text=True,
                )
            )
        try:
            yield agents
        finally:
            for agent in agents:
                kill_host(agent)


def kill_host(agent: subprocess.Popen[str]) -> None:
    """SIGKILL an agent and all that it started, as when the power goes."""
    try:
        processes = [psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        process.kill()
    agent.wait(PATIENCE_SECONDS)
    psutil.wait_procs(processes, PATIENCE_SECONDS)


@pytest.mark.faults
def test_a_host_is_killed_and_both_go_on_to_the_same_weights(two_ranks: Path, tiny_store: Path, tmp_path: Path) -> None:
    words = arguments(tiny_store, tmp_path, "a", "--resume", **SETTINGS)
    (tmp_path / "a").mkdir()  # as docs/training.md has it for a command that is the same from the first time on
    steps, go = EPOCH_STEPS + 2, tmp_path / "go"
    with two_hosts(words, tmp_path, "tests.train.runs.one_rank", HOLD=f"{steps}:{go}") as (killed, left):
        spied = [tmp_path / f"{host}.spy" for host in HOSTS]
        wait_until(lambda: all(len(lines(path)) == steps for path in spied), killed, left)
        kill_host(killed)  # rank 0's: with the store where they meet, the lock and all that is written
        go.touch()
        assert left.wait(PATIENCE_SECONDS) == 1
    assert read_header(tmp_path / "a" / "last.ckpt")["step"] == EPOCH_STEPS, "it was struck in the second epoch"
    said = (tmp_path / f"{HOSTS[1]}.rank").read_text()
    assert "resact: rank 1 lost another rank, whose own message or host says why" in said
    assert "Traceback" not in said
    with two_hosts(words, tmp_path, "resact") as agents:
        assert [agent.wait(PATIENCE_SECONDS) for agent in agents] == [0, 0]
    assert "epochs, 15 steps" in (tmp_path / f"{HOSTS[0]}.txt").read_text()
    assert "epochs, 15 steps" not in (tmp_path / f"{HOSTS[1]}.txt").read_text()
    assert_same_weights(tmp_path / "a", two_ranks / "a")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_the_command_that_resumes_names_all_hosts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    assert folder.resume_command(8, hosts=2) == (
        "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --nproc-per-node 4 -m -- "
        f"resact train --runs {tmp_path} --run a --resume"
    )
