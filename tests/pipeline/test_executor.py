"""Both executors give the same; results are bounded in flight; a task that kills its workers is found out."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from resact.errors import ToolError
from resact.pipeline.executor import DaskExecutor, SerialExecutor, WorkerLostError, open_executor


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


def test_an_exception_of_a_task_reaches_the_caller(cluster: DaskExecutor) -> None:
    with pytest.raises(ZeroDivisionError, match="three"):
        list(cluster.map_unordered(fail_on_three, range(5)))
    with pytest.raises(ZeroDivisionError, match="three"):
        list(SerialExecutor().map_unordered(fail_on_three, range(5)))


def test_workers_report_their_memory_and_the_dashboard_its_address(cluster: DaskExecutor) -> None:
    assert 30e6 < cluster.peak_bytes() < 400e6
    assert SerialExecutor().peak_bytes() > 10e6
    assert cluster.address is not None
    assert cluster.address.startswith("http://127.0.0.1")


@pytest.mark.parametrize("workers", [1, 2])  # of one, all tasks that wait for it die with it each time
def test_a_task_that_kills_every_worker_is_named_and_the_others_are_done(workers: int) -> None:
    with open_executor(workers=workers) as executor:
        outcomes = dict(executor.map_unordered(kill_the_worker_on_three, range(12)))
    assert isinstance(outcomes.pop(3), WorkerLostError)
    assert outcomes == {number: number for number in range(12) if number != 3}


def test_a_result_counts_although_its_worker_dies_before_it_is_asked_for() -> None:
    """The client calls such a result lost once it hears of the death; it has arrived all the same."""
    with open_executor(workers=1) as executor:
        outcomes = executor.map_unordered(square, range(40))
        seen = dict([next(outcomes)])
        (pid,) = executor._client.run(os.getpid).values()
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)  # results came in before, and the news of the death after them
        seen.update(outcomes)
    assert seen == {number: number**2 for number in range(40)}


def test_no_scheduler_at_that_address_is_a_clear_error() -> None:
    start = time.monotonic()
    with (
        pytest.raises(ToolError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"),
        open_executor(workers=1, scheduler="tcp://127.0.0.1:1"),
    ):
        pass
    assert time.monotonic() - start < 60
