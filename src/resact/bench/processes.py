"""Processes of benchmarks: a new one for a single measurement, or a reader's, which make clips in turns with others."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from time import perf_counter, process_time
from typing import Any, NamedTuple

from resact.errors import ToolError

Epoch = Callable[[int], Any]
"""Makes a process's share of the clips of the epoch of this number."""
_PATIENCE_SECONDS = 30.0


def in_new_process(function: Callable[..., dict[str, Any]], *arguments: str | int) -> dict[str, Any]:
    """The result of a module's function, computed in a new process that has imported this module alone.

    Raises:
        ToolError: it failed.
    """
    name = function.__name__
    code = f"import json, sys; from {function.__module__} import {name}; print(json.dumps({name}(*{arguments!r})))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if run.returncode:
        raise ToolError(f"measuring {', '.join(map(str, arguments))} failed: {run.stderr.strip()}")
    return dict(json.loads(run.stdout))


class Turn(NamedTuple):
    """An epoch of a team."""

    seconds: float
    """By the clock, from the first start to the last end."""
    cpu_seconds: float
    """Of all processes."""
    results: tuple[Any, ...]
    """Of each process."""


class Team:
    """The processes of one reader, from their start until `close`."""

    def __init__(self, name: str, readers: Sequence[tuple[Sequence[int], Callable[[], Epoch]]]) -> None:
        """Start the processes, and wait until each is ready.

        Args:
            name: of the reader, for messages.
            readers: for each process, its cores and what makes its reader.

        Raises:
            ToolError: the reader cannot run here; says why.
        """
        self._name, self._pipes, self._processes = name, [], []
        context = get_context("spawn")
        for cores, make in readers:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(cores, make, theirs))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._answers()

    def run(self, epoch: int) -> Turn:
        """Make an epoch's clips.

        Raises:
            ToolError: a process failed; says why.
        """
        for pipe in self._pipes:
            pipe.send(epoch)
        starts, ends, cpu_seconds, results = zip(*self._answers(), strict=True)
        return Turn(max(ends) - min(starts), sum(cpu_seconds), results)

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(_PATIENCE_SECONDS)
            process.terminate()  # others' threads may go on
            process.join()

    def _answers(self) -> list[Any]:
        with ExitStack() as failed:
            failed.callback(self.close)
            try:
                answers = [pipe.recv() for pipe in self._pipes]
            except EOFError:
                raise ToolError(f"{self._name}: a process of it died") from None
            if problems := [answer for answer in answers if isinstance(answer, str)]:
                raise ToolError(f"{self._name}: {problems[0]}")
            failed.pop_all()
        return answers


def _work(cores: Sequence[int], make: Callable[[], Epoch], pipe: Any) -> None:
    import torch  # not in processes that measure their memory

    os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)
    try:
        epoch, answer = make(), None
        while True:
            pipe.send(answer)
            try:
                number = pipe.recv()
            except EOFError:  # `close`
                return
            start, cpu = perf_counter(), process_time()
            result = epoch(number)
            answer = start, perf_counter(), process_time() - cpu, result
    except Exception as error:  # noqa: BLE001 - others' libraries may raise anything
        pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())[-400:]}")
