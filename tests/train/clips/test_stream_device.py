"""A device works on its own: nothing is given away, and no memory used again, before it is done with it."""

import ctypes
import threading
import time
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue

import numpy as np
import pytest
import torch
from tests.conftest import PATIENCE_SECONDS
from tests.train.clips.conftest import NORMALISATION, assert_clips, by_hand, plan_of, stream_of
from tests.train.conftest import make_clip_store
from torch.overrides import TorchFunctionMode

from resact.train.clips import stream as stream_module
from resact.train.clips.packed_clips import PackedClips
from resact.train.clips.transform import transform_batch


class LateDevice:
    """Like a stream of CUDA's: does what it is asked to in order, but later, and keeps no host memory alive meanwhile.

    What it is asked to copy it finds by its address.
    """

    def __init__(self) -> None:
        self.asked: SimpleQueue = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while (act := self.asked.get()) is not None:
            time.sleep(0.003)
            act()

    @contextmanager
    def in_use(self):
        with _Copies(self):
            yield

    def record_event(self, event: threading.Event) -> threading.Event:
        self.asked.put(event.set)
        return event

    def transform_batch(self, packed, geometry, normalisation, *, dtype):
        shape = (len(packed.clips), 3, geometry.frames, geometry.size, geometry.size)
        batch = {name: torch.full(shape, torch.nan, dtype=dtype) for name in geometry.streams}

        def act() -> None:
            for name, clips in transform_batch(packed, geometry, normalisation, dtype=dtype).items():
                batch[name].copy_(clips)

        self.asked.put(act)
        return batch


class _Copies(TorchFunctionMode):
    """In the threads that use the device, `copy_` only asks for a copy."""

    def __init__(self, device: LateDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function is not torch.Tensor.copy_:
            return function(*arguments, **(options or {}))
        target, source = arguments
        address, size = source.data_ptr(), source.numel()
        assert source.dtype == torch.uint8
        assert source.is_contiguous()
        assert options == {"non_blocking": True}

        def act() -> None:
            target.copy_(torch.from_numpy(np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))))

        self.device.asked.put(act)
        return target


class _Event(threading.Event):
    def __init__(self, *, blocking: bool) -> None:
        super().__init__()
        assert blocking, "a thread that waits would keep a core busy"

    def synchronize(self) -> None:
        assert self.wait(PATIENCE_SECONDS)


@pytest.fixture
def late_device(monkeypatch):
    device = LateDevice()
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(stream_module, "transform_batch", device.transform_batch)
    yield device
    device.asked.put(None)


def test_batches_of_a_device_that_lags_behind_are_the_plans_clips(clip_store, monkeypatch, late_device):
    stream = stream_of(clip_store, packed=True, batch_size=2, batches_ahead=2)
    monkeypatch.setattr(stream, "_side", late_device)
    monkeypatch.setattr(stream, "side_stream", late_device.in_use)
    given = []
    for epoch in range(3):
        with stream.epoch(epoch) as reader:
            for batch in reader:
                assert not batch["rgb"].isnan().any(), "given away before it was made"
                given.append((epoch, batch))
    late_device.record_event(done := _Event(blocking=True))
    done.synchronize()
    assert len(given) == 18
    for epoch, batch in given:  # would differ if memory had been used again before it was copied
        assert_clips(batch, partial(by_hand, clip_store, stream.plan, epoch))


@pytest.mark.gpu
@pytest.mark.parametrize("late", ["nothing", "copies", "transform"])
def test_batches_on_a_gpu_are_the_plans_clips(tmp_path, monkeypatch, late):
    """Whichever part of its work is late."""
    store = make_clip_store(tmp_path / "s.zarr", [12] * 40)
    plan = plan_of(store, seed=3)
    stream = stream_of(store, plan, device="cuda", batch_size=4, dtype=torch.float32)
    read_frames, transform = type(store).read_frames, stream_module.transform_batch

    def sleep(wanted: str) -> None:
        if late == wanted:
            with stream.side_stream():
                torch.cuda._sleep(10_000_000)  # cycles: some milliseconds

    def read_and_sleep(self, row, *arguments, **options):
        frames = read_frames(self, row, *arguments, **options)
        sleep("copies")
        return frames

    def sleep_and_transform(*arguments, **options):
        sleep("transform")
        return transform(*arguments, **options)

    monkeypatch.setattr(type(store), "read_frames", read_and_sleep)
    monkeypatch.setattr(stream_module, "transform_batch", sleep_and_transform)
    given = []
    for epoch in range(3):
        with stream.epoch(epoch) as reader:
            for batch in reader:
                given.append((epoch, batch["positions"], {name: batch[name].clone() for name in ("rgb", "residual")}))
                assert batch["label"].device.type == batch["rgb"].device.type == "cuda"
                del batch  # its memory may be used again
    monkeypatch.undo()
    assert len(given) == 30
    for epoch, positions, tensors in given:
        for place, position in enumerate(positions):
            expected = _alone_on_the_gpu(store, plan, epoch, position)
            for name, clips in tensors.items():
                assert torch.equal(clips[place], expected[name][0])


def _alone_on_the_gpu(store, plan, epoch, position):
    clip = plan.clip(epoch, position)
    frames = torch.from_numpy(store.read_frames(clip.video_index, clip.start, clip.stop))
    packed = PackedClips(
        frames=frames.flatten().cuda(), offsets=[0], heights=[frames.shape[1]], widths=[frames.shape[2]], clips=[clip]
    )
    return transform_batch(packed, plan.geometry, NORMALISATION)
