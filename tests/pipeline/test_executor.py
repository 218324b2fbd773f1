"""Both executors give the same; results are bounded in flight; a task that kills its workers is found out."""

import errno
import multiprocessing
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import pytest
from dask.utils import parse_timedelta
from distributed.nanny import WorkerProcess

from resact.errors import ToolError
from resact.pipeline import executor
from resact.pipeline.executor import DaskExecutor, Executor, SerialExecutor, WorkerLostError, open_executor


def square(number: int) -> int:
    return number * number


def fail_on_three(number: int) -> int:
    if number == 3:
        raise ZeroDivisionError("three")
    return number


def kill_the_worker_on_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskExecutor]:
    with open_executor(workers=2) as executor:
        assert isinstance(executor, DaskExecutor)
        yield executor


def test_a_worker_that_starts_slowly_is_not_taken_for_lost(cluster: DaskExecutor) -> None:
    assert parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout")) >= 300


def test_dask_gives_what_the_serial_executor_gives(cluster: DaskExecutor) -> None:
    expected = dict(SerialExecutor().map_unordered(square, range(50)))
    assert expected == {number: number**2 for number in range(50)}
    assert dict(cluster.map_unordered(square, range(50))) == expected
    assert dict(cluster.map_unordered(square, [])) == {}


def test_a_bounded_number_is_in_flight(cluster: DaskExecutor) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(200):
            taken += 1
            yield number

    for given, _ in enumerate(cluster.map_unordered(square, items()), start=1):
        assert taken <= given + 2 * 3


def test_the_scheduler_is_asked_for_workers_once_per_room_of_results(
    cluster: DaskExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question is a round trip: one per result took most of the time of a prep of many short videos."""
    asked = []
    nthreads = cluster._client.nthreads
    monkeypatch.setattr(cluster._client, "nthreads", lambda: asked.append(1) or nthreads())
    assert len(dict(cluster.map_unordered(square, range(60)))) == 60
    assert len(asked) == 1 + 60 // (2 * 3)


def test_an_exception_of_a_task_reaches_the_caller(cluster: DaskExecutor) -> None:
    with pytest.raises(ZeroDivisionError, match="three"):
        list(cluster.map_unordered(fail_on_three, range(5)))
    with pytest.raises(ZeroDivisionError, match="three"):
        list(SerialExecutor().map_unordered(fail_on_three, range(5)))


def test_without_bokeh_there_is_no_dashboard_and_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "find_spec", lambda name: None)
    with open_executor(workers=1, scheduler=None) as running:
        assert running.dashboard == "no dashboard: `pip install bokeh` adds one"
        assert [value for _, value in running.map_unordered(abs, [-3])] == [3]


def test_workers_report_their_memory_and_the_dashboard_its_address(cluster: DaskExecutor) -> None:
    assert 30e6 < cluster.peak_bytes() < 400e6
    assert SerialExecutor().peak_bytes() > 10e6
    assert cluster.dashboard is not None
    assert cluster.dashboard.startswith("dashboard: http://127.0.0.1")


@pytest.mark.parametrize("workers", [1, 2])  # of one, all tasks that wait for it die with it each time
def test_a_task_that_kills_every_worker_is_named_and_the_others_are_done(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resact.pipeline.executor._ALLOWED_WORKER_DEATHS", 1)  # each costs the start of a process
    with open_executor(workers=workers) as executor:
        outcomes = dict(executor.map_unordered(kill_the_worker_on_three, range(12)))
    assert isinstance(outcomes.pop(3), WorkerLostError)
    assert outcomes == {number: number for number in range(12) if number != 3}


def kill_the_worker_once(trace: Path, number: int) -> int:
    if number == 3 and not trace.exists():
        trace.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def assert_all_done_although_a_worker_dies(executor: Executor, folder: Path) -> None:
    outcomes = dict(executor.map_unordered(partial(kill_the_worker_once, folder / "killed"), range(12)))
    assert outcomes == {number: number for number in range(12)}
    assert (folder / "killed").exists()


def test_a_worker_that_dask_takes_for_lost_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does on a busy machine, where the start of a process takes longer than Dask waits for it."""
    monkeypatch.setattr("resact.pipeline.executor._START_LIMIT", "0 s")
    monkeypatch.setattr("resact.pipeline.executor._REPLACE_SECONDS", 0.1)
    with open_executor(workers=1) as executor:
        assert_all_done_although_a_worker_dies(executor, tmp_path)


def test_a_worker_that_dask_fails_to_close_is_closed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does now and then if a worker has just died."""
    kill, failures = WorkerProcess.kill, []

    async def fail_once(process: WorkerProcess, **options: Any) -> None:
        await kill(process, **options)
        if not failures:
            failures.append(process)
            raise AssertionError("can only join a started process")

    monkeypatch.setattr(WorkerProcess, "kill", fail_once)
    before = set(multiprocessing.active_children())
    with open_executor(workers=2) as executor:
        assert dict(executor.map_unordered(abs, [-1, -2])) == {-1: 1, -2: 2}
    assert failures
    assert set(multiprocessing.active_children()) <= before


def fail_to_start_workers(monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """From now on, as where memory or process ids have run out."""
    start, left = WorkerProcess.start, times

    async def fail(process: WorkerProcess) -> object:
        nonlocal left
        if left:
            left -= 1
            raise OSError("Cannot allocate memory")
        return await start(process)

    monkeypatch.setattr(WorkerProcess, "start", fail)


def test_a_worker_that_cannot_be_started_again_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resact.pipeline.executor._REPLACE_SECONDS", 0.1)
    with open_executor(workers=1) as executor:
        fail_to_start_workers(monkeypatch, times=3)
        assert_all_done_although_a_worker_dies(executor, tmp_path)


def test_where_no_worker_can_be_started_it_ends_and_names_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resact.pipeline.executor._REPLACE_SECONDS", 0.1)
    monkeypatch.setattr("resact.pipeline.executor._NO_WORKER_LIMIT", "1 s")
    expected = r"no worker process could be started for 1 s, video 3 is waiting for one.*--workers 0"
    with open_executor(workers=1) as executor:
        fail_to_start_workers(monkeypatch, times=1_000_000)
        with pytest.raises(ToolError, match=expected):
            list(executor.map_unordered(kill_the_worker_on_three, [3], name=lambda number: f"video {number}"))


def wait_for_file(file: Path, number: int) -> int:
    while number == 3 and not file.exists():
        time.sleep(0.01)
    return number


def test_a_long_wait_names_what_is_waited_for(
    cluster: DaskExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resact.pipeline.executor._QUIET_SECONDS", 0.01)
    told = []

    def tell(line: str) -> None:
        told.append(line)
        (tmp_path / "told").touch()

    work = partial(wait_for_file, tmp_path / "told")
    assert dict(cluster.map_unordered(work, [3], name=lambda number: f"video {number}", tell=tell)) == {3: 3}
    assert re.fullmatch(r"nothing finished for \d+ s; 2 workers are there, waiting for video 3", told[0])


def test_a_result_counts_although_its_worker_dies_before_it_is_asked_for() -> None:
    """The client calls such a result lost once it hears of the death; it has arrived all the same."""
    with open_executor(workers=1) as executor:
        outcomes = executor.map_unordered(square, range(40))
        seen = dict([next(outcomes)])
        ((worker, pid),) = executor._client.run(os.getpid).items()
        os.kill(pid, signal.SIGKILL)
        while worker in executor._client.nthreads():  # results came in before, and the news of the death after them
            time.sleep(0.01)
        seen.update(outcomes)
    assert seen == {number: number**2 for number in range(40)}


def test_without_loopback_there_is_one_line_and_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with (
        pytest.raises(ToolError, match=r"127\.0\.0\.1, .* \(Network is unreachable\): --workers 0"),
        open_executor(workers=1),
    ):
        pass
    with open_executor(workers=0) as executor:
        assert dict(executor.map_unordered(square, [3])) == {3: 9}


@pytest.mark.parametrize(
    "error", [RuntimeError("Cluster failed to start: no\n\n reason"), PermissionError(1, "no\nreason")]
)
def test_workers_that_cannot_be_started_are_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr("distributed.LocalCluster", fail)
    with (
        pytest.raises(ToolError, match=r"cannot be started here \(.*no reason\): --workers 0"),
        open_executor(workers=1),
    ):
        pass


def test_no_scheduler_at_that_address_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resact.pipeline.executor._CONNECT_SECONDS", 1)
    with (
        pytest.raises(ToolError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"),
        open_executor(workers=1, scheduler="tcp://127.0.0.1:1"),
    ):
        pass
