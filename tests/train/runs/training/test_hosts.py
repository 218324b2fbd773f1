"""One training on two hosts: two loopback addresses, each with an agent of torchrun and a process of its own."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import PATIENCE_SECONDS, wait_until
from tests.train.runs.conftest import arguments, assert_same_weights, finish, start_ranks

from resact.train.runs.files.folder import RunFolder, program
from resact.train.runs.files.tensors import read_header

HOSTS = ("127.0.0.1", "127.0.0.2")
EPOCHS, EPOCH_STEPS = 2, 5
SETTINGS: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 4, "val_groups": 0, "modality": "both"}


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
def test_a_host_is_killed_and_both_go_on_to_the_same_weights(tiny_store: Path, tmp_path: Path) -> None:
    (undisturbed := tmp_path / "undisturbed").mkdir()
    finish(start_ranks(arguments(tiny_store, undisturbed, "a", **SETTINGS), undisturbed), 0)
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
    assert "epochs, 10 steps" in (tmp_path / f"{HOSTS[0]}.txt").read_text()
    assert "epochs, 10 steps" not in (tmp_path / f"{HOSTS[1]}.txt").read_text()
    assert_same_weights(tmp_path / "a", undisturbed / "a")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_the_command_that_resumes_names_all_hosts(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    assert folder.resume_command(8, hosts=2) == (
        "torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --nproc-per-node 4 -m -- "
        f"resact train --runs {tmp_path} --run a --resume"
    )
