"""`resact bench stream`: clips per second from a store's stream to a device, by the number of threads."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from rich.console import Console

from resact.bench.comparison import print_rows, result_of, spread, take_turns
from resact.bench.competitors import NORMALISATION
from resact.bench.rates import require_device
from resact.cache.store import ClipStore
from resact.errors import UsageError
from resact.train.clips.sampling import TrainPlan
from resact.train.clips.stream import ClipStream
from resact.train.networks.timing import synchronise
from resact.train.runs.files.config import RunConfig


def bench_stream(
    settings: Mapping[str, Any],
    store: ClipStore,
    *,
    threads: Sequence[int],
    device: str | None,
    clips: int,
    rounds: int,
    console: Console,
) -> dict[str, Any]:
    """Stream training clips to an otherwise idle device.

    Args:
        settings: as in `train`; only geometry, batch size and precision are used.
        store: store to read clips from, each video as often as needed.
        threads: numbers of reading threads to compare.
        device: `cuda` or `cpu`; None: the GPU if there is one.
        clips: clips per round and number of threads, in whole batches, at least two.
        rounds: number of rounds; results are their medians. One warm-up round before them does not count.
        console: where to print.

    Returns:
        `rows`, each `threads, clips_per_second` (median), `clips_per_second_min, clips_per_second_max`; device, codec,
        geometry, batch size, machine, versions, commit.

    Raises:
        UsageError: there is no such device, or a number is out of bounds.
    """
    target = torch.device(require_device(device))
    if min(threads, default=0) < 1:
        raise UsageError(f"got --threads {','.join(map(str, threads))}, expected numbers from 1 on")
    config = RunConfig.of(settings)
    batch = config.recipe.batch_size
    if clips < 2 * batch:
        raise UsageError(f"got --clips {clips}, expected two batches of {batch} or more")
    videos = np.flatnonzero(store.index.num_frames)
    plan = TrainPlan(store.index, np.resize(videos, clips // batch * batch), config.geometry, seed=0, flip=True)
    on_gpu = target.type == "cuda"
    streams = {
        count: ClipStream(
            store,
            plan,
            batch_size=batch,
            normalisation=NORMALISATION,
            device=target,
            dtype=torch.bfloat16 if on_gpu and config.amp is not False else torch.float32,
            threads=count,
        )
        for count in threads
    }
    rates: dict[int, list[float]] = {count: [] for count in threads}
    for number, count in take_turns(list(threads), rounds + 1):
        start = time.perf_counter()
        with streams[count].epoch(number) as reader:
            for _ in reader:
                pass
        synchronise(target)
        rate = len(plan) / (time.perf_counter() - start)
        if number:
            rates[count].append(rate)
            console.print(f"round {number} of {rounds}: {count} threads, {rate:,.1f} clips/s")
    rows = [{"threads": count, **spread("clips_per_second", found)} for count, found in rates.items()]
    name = torch.cuda.get_device_name(target) if on_gpu else "cpu"
    print_rows(
        console,
        rows,
        {
            "threads": "{threads}",
            "clips/s": "{clips_per_second:,.1f}",
            "lowest to highest": "{clips_per_second_min:,.1f} to {clips_per_second_max:,.1f}",
        },
        title=f"{store.settings.codec} clips to {name}, batches of {batch}",
    )
    return result_of(
        "stream",
        device=name,
        codec=store.settings.codec,
        geometry=asdict(config.geometry),
        batch=batch,
        clips=len(plan),
        rounds=rounds,
        rows=rows,
    )
