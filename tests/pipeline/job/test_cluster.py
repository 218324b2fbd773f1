"""Prep on a Dask cluster of separately started processes: deaths cost time, and no byte."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.conftest import PATIENCE_SECONDS, wait_until
from tests.pipeline.conftest import FFMPEG, Tree, fake_ffmpeg, resact, tree_of
from tests.pipeline.job.conftest import TINY_VIDEOS, tiny_arguments
from tests.pipeline.job.test_prep_kills import done, journal_lines, kill_frozen

pytestmark = pytest.mark.faults

HELD = "v_Biking_g02_c01"
"""The video that a worker is made to have in hand when it is struck."""


@contextmanager
def started(*arguments: object, **environment: str) -> Iterator[psutil.Popen]:
    """A Python module in a process of its own, killed at the end with all its children."""
    command = [sys.executable, "-m", *map(str, arguments)]
    env = os.environ | environment
    with psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                for child in [*process.children(recursive=True), process]:
                    child.kill()
                process.communicate()


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, psutil.Popen, list[psutil.Popen]]]:
    """A scheduler and two workers, as docs/cluster.md has them; the scheduler's address, and the processes."""
    folder.mkdir()
    connection = folder / "scheduler.json"
    with ExitStack() as stack:
        scheduler = stack.enter_context(
            started(
                "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard",
                "--scheduler-file", connection,
            )
        )  # fmt: skip
        wait_until(
            lambda: connection.exists() and connection.read_text().endswith("}"), scheduler
        )  # Dask writes in place
        address = json.loads(connection.read_text())["address"]
        workers = [
            stack.enter_context(
                started(
                    "distributed.cli.dask_worker", address, "--nthreads", 1, "--no-nanny", "--no-dashboard",
                    "--memory-limit", 0, "--local-directory", folder, HOLDS="1",
                )
            )
            for _ in range(2)
        ]  # fmt: skip
        yield address, scheduler, workers


@dataclass(frozen=True)
class HoldingFfmpeg:
    """An ffmpeg that, the first time that a worker gives it the video `HELD`, goes on for ever."""

    path: Path

    @property
    def _number(self) -> Path:
        return self.path.with_name("held") / "process"

    def wait_until_midway(self, prep: psutil.Popen, store: Path, workers: list[psutil.Popen]) -> psutil.Popen:
        """Until some videos are committed and that one is in hand; the worker that has it."""
        wait_until(lambda: self._number.exists() and journal_lines(store) >= 3, prep, *workers)
        (worker,) = (w for w in workers if w.pid == self.process().ppid())
        return worker

    def process(self) -> psutil.Process:
        return psutil.Process(int(self._number.read_text()))


@pytest.fixture
def holding(tmp_path: Path) -> HoldingFfmpeg:
    held = f'cd "{tmp_path}" && mkdir held 2>/dev/null && echo $$ > part && mv part held/process && exec sleep 7200'
    path = fake_ffmpeg(tmp_path / "ffmpeg", f'case "$HOLDS $*" in 1*{HELD}*) {held};; esac', f'exec "{FFMPEG}" "$@"')
    return HoldingFfmpeg(path)


def test_a_worker_killed_midway_costs_no_byte(
    tiny: Path, tiny_tree: Tree, holding: HoldingFfmpeg, tmp_path: Path
) -> None:
    store = tmp_path / "ucf101.zarr"
    with cluster(tmp_path / "cluster") as (address, scheduler, workers):
        command = tiny_arguments(tiny, store, "--scheduler", address, "--ffmpeg", holding.path)
        with started("resact", *command) as prep:
            struck = holding.wait_until_midway(prep, store, workers)
            left_behind = holding.process()
            committed = done(store)
            assert kill_frozen(struck)
            assert 3 <= committed < TINY_VIDEOS
            assert not (store / HELD).exists()
            _, errors = prep.communicate(timeout=PATIENCE_SECONDS)
            assert prep.returncode == 0, errors
        left_behind.kill()
        (other,) = (worker for worker in workers if worker is not struck)
        assert scheduler.poll() is other.poll() is None
    assert tree_of(store) == tiny_tree


def test_a_scheduler_killed_midway_is_one_error_and_another_cluster_goes_on(
    tiny: Path, tiny_tree: Tree, holding: HoldingFfmpeg, tmp_path: Path
) -> None:
    store = tmp_path / "ucf101.zarr"
    with cluster(tmp_path / "first") as (address, scheduler, workers):
        command = tiny_arguments(tiny, store, "--scheduler", address, "--ffmpeg", holding.path)
        with started("resact", *command) as prep:
            holding.wait_until_midway(prep, store, workers)
            assert kill_frozen(scheduler)
            _, errors = prep.communicate(timeout=PATIENCE_SECONDS)
        assert prep.returncode == 1, errors
        assert "the Dask scheduler no longer answers" in errors
        assert "run the same command again" in errors
        assert "Traceback" not in errors, errors
        assert 3 <= done(store) < TINY_VIDEOS
    with cluster(tmp_path / "second") as (address, *_):
        run = resact(*tiny_arguments(tiny, store, "--scheduler", address))
    assert run.returncode == 0, run.stderr
    assert tree_of(store) == tiny_tree
