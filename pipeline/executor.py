"""Runs tasks in this process or on Dask. Both yield results as they finish, with a bounded number in flight."""

import asyncio
import logging
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from resact.cache.names import first_of
from resact.errors import ToolError

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT_PER_THREAD = 3  # one at work, two waiting, so that a worker never waits for the scheduler
_ALLOWED_WORKER_DEATHS = 5  # of a task, before it is taken for the cause
_START_LIMIT = "5 minutes"  # for a local worker to start again; Dask's 15 s are too few on a busy machine
_NO_WORKER_LIMIT = "15 minutes"  # without any local worker
_REPLACE_SECONDS = 5.0  # between two looks for local workers that are gone for good
_QUIET_SECONDS = 60.0  # without a result, then twice as long, and so on
_NAMES_SHOWN = 3
_CONNECT_SECONDS = 10  # until an address that nobody answers at is given up


class WorkerLostError(Exception):
    """Workers died repeatedly while they had this task."""


@dataclass(frozen=True)
class _Done(Generic[Result]):
    """A task's result, told apart from an exception in its place."""

    value: Result


def _do(function: Callable[[Item], Result], item: Item) -> _Done[Result]:
    return _Done(function(item))


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    import resource

    # What `getrusage` gives is no less than what the parent had when it started this process.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def has_dashboard() -> bool:
    """Whether the packages for Dask's dashboard are installed (the extra `dashboard`)."""
    return find_spec("bokeh") is not None


class SerialExecutor:
    """Runs one task after another in this process: the simple counterpart of `DaskExecutor`."""

    dashboard: str | None = None
    """Where the dashboard is, or what it lacks, in words; None if there are no workers to watch."""

    def map_unordered(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        name: Callable[[Item], str] = str,  # noqa: ARG002 - nothing is waited for here
        tell: Callable[[str], None] = lambda _: None,  # noqa: ARG002
    ) -> Iterator[tuple[Item, Result | WorkerLostError]]:
        """Each item with its result, in the order in which they finish.

        Args:
            function: picklable.
            items: picklable.
            name: name of an item, for messages.
            tell: called with a message when nothing has finished for a long time.
        """
        for item in items:
            yield item, function(item)

    def peak_bytes(self) -> int:
        """Largest resident memory of any worker so far, or of this process."""
        return peak_bytes()


class DaskExecutor:
    """Runs tasks on a Dask cluster, through an open client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.dashboard: str | None = (
            f"dashboard: {client.dashboard_link}" if has_dashboard() else "no dashboard: `pip install bokeh` adds one"
        )

    def map_unordered(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        *,
        name: Callable[[Item], str] = str,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Iterator[tuple[Item, Result | WorkerLostError]]:
        """Results as they finish; the tasks of a lost worker go to others.

        Tasks whose workers died repeatedly run once more at the end, one by one: a task that only waited on such a
        worker looks like the one that killed it, and running alone tells them apart.

        Raises:
            ToolError: the scheduler ended, or no local worker could be started for a long time.
        """
        suspects: list[Item] = []
        for item, result in self._together(function, items, name, tell):
            if isinstance(result, WorkerLostError):
                suspects.append(item)
            else:
                yield item, result
        for item in suspects:
            yield from self._together(function, [item], name, tell)

    def _together(
        self,
        function: Callable[[Item], Result],
        items: Iterable[Item],
        name: Callable[[Item], str],
        tell: Callable[[str], None],
    ) -> Iterator[tuple[Item, Result | WorkerLostError]]:
        """Results as they finish, including lost tasks that only waited on a worker that died."""
        from distributed import CancelledError, as_completed
        from distributed.scheduler import KilledWorker, NoWorkerError

        waiting = iter(items)
        running: dict[str, Item] = {}  # by key, because a cluster's futures do not hold what they were made of

        def submit(count: int) -> Iterator[Any]:
            for item in islice(waiting, count):
                future = self._client.submit(_do, function, item, pure=False)
                running[future.key] = item
                yield future

        # Results come along with the news that they are there, and the number of workers is asked for only once per
        # room full of results: each question is a round trip to the scheduler, during which nothing else is done here.
        room = until_asked = self._room()
        finished = as_completed(list(submit(room)), loop=self._client.loop, with_results=True, raise_errors=False)
        while running:
            self._wait(finished, lambda: first_of([*running.values()], _NAMES_SHOWN, show=name), tell)
            future, result = next(finished)
            item = running.pop(future.key)
            # Not the future's status: a worker that dies after handing over a result makes that `lost`.
            if isinstance(result, _Done):
                yield item, result.value
            elif isinstance(result, CancelledError):
                raise _scheduler_lost(" ".join(str(result).split()))
            elif isinstance(result[1], KilledWorker):
                yield item, WorkerLostError("its workers died, one after the other, while they had it")
            elif isinstance(result[1], NoWorkerError):
                raise ToolError(
                    f"no worker process could be started for {_NO_WORKER_LIMIT}, {name(item)} is waiting for one: "
                    "check the free memory and `ulimit -u`, then run the same command again, or use --workers 0"
                )
            else:
                raise result[1]
            future.release()
            until_asked -= 1
            if not until_asked:
                room = until_asked = self._room()
            finished.update(list(submit(max(1, room - len(running)))))

    def _wait(self, finished: Any, names: Callable[[], str], tell: Callable[[str], None]) -> None:
        """Wait until there is a result; from time to time, report what is still running."""
        limit = waited = _QUIET_SECONDS
        while not _has_news(finished, limit):
            workers = self._threads()
            tell(f"nothing finished for {waited:,.0f} s; {workers or 'no'} workers are there, waiting for {names()}")
            limit, waited = waited, 2 * waited

    def _threads(self) -> int:
        try:
            return int(sum(self._client.nthreads().values()))
        except OSError as error:
            raise _scheduler_lost(error) from None

    def _room(self) -> int:
        return max(1, self._threads()) * _IN_FLIGHT_PER_THREAD

    def peak_bytes(self) -> int:
        """Peak resident memory of the current workers."""
        return int(max(self._client.run(peak_bytes).values()))


def _scheduler_lost(why: object) -> ToolError:
    return ToolError(
        f"the Dask scheduler no longer answers ({why}): start it again if it has ended, and run the same command again"
    )


def _has_news(finished: Any, seconds: float) -> bool:
    """Whether a result is there, or comes in that time."""
    with finished.thread_condition:  # held by who brings a result, to give notice
        return bool(finished.has_ready() or finished.thread_condition.wait(seconds))


Executor = SerialExecutor | DaskExecutor


@contextmanager
def _kept_up(cluster: Any, workers: int) -> Iterator[None]:
    """A context in which local workers that could not be restarted are replaced, which Dask does not do by itself."""
    from distributed.core import Status

    async def replace() -> None:
        while True:
            await asyncio.sleep(_REPLACE_SECONDS)
            for name, nanny in list(cluster.workers.items()):
                if nanny.status in (Status.closed, Status.failed):
                    del cluster.workers[name]
            cluster.scale(workers)

    replacing = asyncio.run_coroutine_threadsafe(replace(), cluster.loop.asyncio_loop)
    try:
        yield
    finally:
        replacing.cancel()


@contextmanager
def _closed_at_last(cluster: Any) -> Iterator[None]:
    """A context that closes the cluster, also if Dask's first try fails because a worker died just before.

    Dask may then wait for a process that it could not start ("can only join a started process"). It has given up that
    worker by then, so that a second try gets further.
    """
    from distributed.core import Status

    try:
        yield
    finally:
        try:
            cluster.close()
        except AssertionError:
            cluster.status = Status.failed  # not `closing`: the next try would wait for this one
            cluster.close()


@contextmanager
def open_executor(*, workers: int, scheduler: str | None = None) -> Iterator[Executor]:
    """Start an executor, and stop it afterwards, including running tasks.

    Args:
        workers: worker processes on this machine; 0 runs tasks in this process.
        scheduler: address of a running Dask scheduler to use instead.

    Raises:
        ToolError: no scheduler answers at that address, or no processes can be started or reached here.
    """
    if not workers and scheduler is None:
        yield SerialExecutor()
        return
    if scheduler is None and (problem := loopback_problem()):
        raise ToolError(
            f"worker processes talk over 127.0.0.1, which does not work here ({problem}): "
            "--workers 0 does all the work in this process"
        )
    tempfile.gettempdir()  # Dask needs it too, and says less where there is none
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import silence_logging_cmgr

    settings = {
        # Dask asks malloc to give memory back at once; a frame's worth of it, taken and given back for each frame,
        # then costs more time in the kernel than encoding the frame.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 << 20,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 << 20,
        "distributed.scheduler.allowed-failures": _ALLOWED_WORKER_DEATHS,
        "distributed.scheduler.no-workers-timeout": _NO_WORKER_LIMIT,
        # Past this Dask closes for good what would start the worker again.
        "distributed.deploy.lost-worker-timeout": _START_LIMIT,
        "distributed.worker.daemon": True,  # local workers end with the driver
        "distributed.admin.large-graph-warning-threshold": "1GB",
    }
    with dask.config.set(settings):
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as error:
                raise ToolError(
                    f"no Dask scheduler answers at {scheduler} ({error}): start one, or leave out --scheduler"
                ) from None
            with silence_logging_cmgr(logging.CRITICAL), client:  # a scheduler that dies is told by one error of ours
                yield DaskExecutor(client)
            return
        try:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,  # a task's memory is bounded by design; Dask's own limit only pauses workers
                dashboard_address="127.0.0.1:0" if has_dashboard() else None,
                silence_logs=logging.CRITICAL,
                preload="resact.pipeline.worker",
            )
        except (OSError, RuntimeError) as error:
            words = " ".join(str(error).split()) or type(error).__name__
            raise ToolError(
                f"worker processes cannot be started here ({words}): --workers 0 does all the work in this process"
            ) from error
        with _closed_at_last(cluster), _kept_up(cluster, workers), Client(cluster, set_as_default=False) as client:
            yield DaskExecutor(client)


def loopback_problem() -> str | None:
    """Why programs on this machine cannot talk to each other over 127.0.0.1, as in a bare network namespace."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=_CONNECT_SECONDS),
        ):
            return None
    except OSError as error:
        return error.strerror or str(error)
