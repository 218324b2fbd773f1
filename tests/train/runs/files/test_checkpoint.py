"""Checkpoints that are cut, flipped, crafted or gone."""

import json
import os
import pickle
import random
import re
import resource
import shutil
import struct
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.conftest import GAUNTLET, fill
from tests.train.runs.conftest import assert_same_weights, cut_power, noted, said_by
from tests.train.runs.untrained import untrained_run

from resact.cache.store import open_store
from resact.errors import CheckpointError, RunError, RunWriteError
from resact.train.runs.files import tensors as module
from resact.train.runs.files.checkpoint import Checkpoints, EpochSums, Progress
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.history import History, read_metrics
from resact.train.runs.files.tensors import read_header, read_tensors, write_tensors
from resact.train.runs.testing.trained import load_trained
from resact.train.runs.training.step import TrainStep

FLIPS = 2000 if GAUNTLET else 60


@pytest.fixture(scope="module")
def whole(done) -> Path:
    """A run that nothing befalls."""
    return Path(done[0].run)


@pytest.fixture(scope="module")
def cut(train_once, whole) -> Path:
    """The same run as a power cut leaves it, with `last.ckpt` of step 5 and `previous.ckpt` of step 4."""
    cut_power(train_once, name="cut", after_step=5)
    folder = whole.parent / "cut"
    assert [read_header(folder / f"{name}.ckpt")["step"] for name in ("last", "previous")] == [5, 4]
    return folder


@pytest.fixture
def halted(cut, tmp_path) -> RunFolder:
    """The test's own copy of it."""
    return RunFolder(shutil.copytree(cut, tmp_path / "runs" / "a"))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


class Attack:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def craft(path: Path) -> None:
    path.write_bytes(pickle.dumps(Attack()))


def craft_with_torch(path: Path) -> None:
    torch.save({"network": Attack()}, path)


@pytest.mark.faults
@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, empty, craft, craft_with_torch, Path.unlink])
def test_the_previous_checkpoint_is_used_and_said_so(halted, whole, train_tiny, tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    damage(halted.path / "last.ckpt")
    text = said_by(train_tiny, resume=True)
    assert f"continuing from {halted.path / 'previous.ckpt'}, step 4" in text
    assert damage is Path.unlink or "last.ckpt" in text
    assert not (tmp_path / "pwned").exists(), "a file of tensors ran code"
    assert_same_weights(halted.path, whole)
    assert noted(halted.path) == list(range(1, 10))


@pytest.mark.faults
def test_where_none_is_whole_it_says_so_and_touches_nothing(halted, train_tiny):
    cut_short(halted.path / "last.ckpt")
    flip_a_bit(halted.path / "previous.ckpt")
    before = {path: path.read_bytes() for path in halted.path.iterdir()}
    with pytest.raises(CheckpointError, match=r"last.ckpt is damaged .*previous.ckpt does not match its checksum.*"):
        train_tiny("a", resume=True)
    assert {path: path.read_bytes() for path in halted.path.iterdir()} == before


@pytest.mark.faults
def test_a_checkpoint_of_another_network_is_refused(halted, train_tiny):
    other = Path(train_tiny("other", modality="both", epochs=1).run)
    for name in ("last.ckpt", "previous.ckpt"):
        (halted.path / name).write_bytes((other / "last.ckpt").read_bytes())
    with pytest.raises(CheckpointError, match="is not of this run"):
        train_tiny("a", resume=True)


@pytest.mark.faults
def test_crafted_weights_are_refused_without_running_them(run, train_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for attack in (craft, craft_with_torch):
        attack(run.weights("last"))
        with pytest.raises(CheckpointError, match=r"not written by resact.*no code in it was run"):
            load_trained(run)
        assert not (tmp_path / "pwned").exists()
    run.weights("last").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        run.read_network()
    train_tiny(resume=True)
    assert run.read_network()[1].epoch == 3, "going on with a run that is done brings its weights back"


def rewrite(path: Path, edit) -> None:
    """With a checksum that is right, as whoever crafts a file would."""
    tensors, header = read_tensors(path)
    path.unlink()
    write_tensors(path, *edit(tensors, header))


def with_text(path: Path, text: str) -> None:
    """The same tensors under a header of any text."""
    tensors, _ = read_tensors(path)
    safetensors.torch.save_file(tensors, path, {"resact": text, "crc32c": module._checksum(text, tensors)})


def with_raw_header(path: Path, header: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def without_tensor(path: Path, prefix: str) -> None:
    rewrite(path, lambda tensors, header: ({n: t for n, t in tensors.items() if n != first(tensors, prefix)}, header))


def with_tensor(path: Path, prefix: str, change) -> None:
    rewrite(path, lambda tensors, header: (tensors | {(n := first(tensors, prefix)): change(tensors[n])}, header))


def first(tensors, prefix: str) -> str:
    return next(name for name, tensor in tensors.items() if name.startswith(prefix) and tensor.ndim)


def with_header(path: Path, **changes) -> None:
    rewrite(path, lambda tensors, header: (tensors, {k: v for k, v in (header | changes).items() if v != "gone"}))


def with_sums(path: Path, sums) -> None:
    rewrite(path, lambda tensors, header: (tensors, header | {"sums": sums(header["sums"])}))


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def without_momenta(path: Path) -> None:
    rewrite(path, lambda tensors, header: ({n: t for n, t in tensors.items() if "momentum/" not in n}, header))


CRAFTED = {
    "a folder": (as_folder, "damaged or was not written by resact .*expected safetensors"),
    "no JSON around": (partial(with_raw_header, header=b"nope"), "invalid JSON in header.*expected safetensors"),
    "odd dtype": (
        partial(with_raw_header, header=b'{"w":{"dtype":"F6_E2M3","shape":[0],"data_offsets":[0,0]}}'),
        "was not written by resact",
    ),
    "no header": (partial(with_raw_header, header=b"{}"), "its header lacks 'resact' or 'crc32c'"),
    "no JSON": (partial(with_text, text="nope"), "its header is not JSON"),
    "JSON too deep": (partial(with_text, text="[" * 200_000), "its header is not JSON"),
    "JSON of another kind": (partial(with_text, text="[1]"), r"its header is '\[1\]', expected an object"),
    "no fields": (partial(with_text, text="{}"), "its header has no fields, expected .*epoch"),
    "field missing": (partial(with_header, step="gone"), "its header has .*, expected .*step"),
    "field unknown": (partial(with_header, colour=1), "its header has .*colour.*, expected"),
    "text for a number": (partial(with_header, step="5"), "got step '5', expected int from 0 on"),
    "truth for a number": (partial(with_header, step=True), "got step True, expected int"),
    "below 0": (partial(with_header, epoch=-1), "got epoch -1, expected int from 0 on"),
    "no number": (partial(with_header, val_video_top1=float("nan")), "got val_video_top1 nan, expected float"),
    "beyond all": (partial(with_header, epoch=10**400), "got epoch 1000"),
    "weight missing": (partial(without_tensor, prefix=""), "got .* tensors, expected"),
    "weight of another shape": (partial(with_tensor, prefix="", change=lambda t: t[:1].clone()), "got .* expected"),
    "weight of another dtype": (partial(with_tensor, prefix="", change=torch.Tensor.half), "got .*float16.* expected"),
}
CRAFTED_STATE = CRAFTED | {
    "no sums": (partial(with_sums, sums=lambda sums: None), "got sums None, expected EpochSums"),
    "sums of text": (partial(with_sums, sums=lambda sums: sums | {"loss": "1"}), "got loss '1', expected float"),
    "sums of other fields": (
        partial(with_sums, sums=lambda sums: {"loss": 0.0}),
        "header has loss, expected clips",
    ),
    "sums of other clips": (partial(with_sums, sums=lambda sums: sums | {"clips": 3}), "got sums of 3 clips, expected"),
    "no momenta": (without_momenta, "got 2 tensors, expected 4"),
    "momentum missing": (partial(without_tensor, prefix="momentum/"), "got .* tensors, expected"),
    "momentum of another shape": (
        partial(with_tensor, prefix="momentum/", change=lambda t: t[:1].clone()),
        "got .* expected",
    ),
    "momentum of another dtype": (partial(with_tensor, prefix="momentum/", change=torch.Tensor.double), "float64"),
}


@pytest.fixture(scope="module")
def small_state(tmp_path_factory):
    """A checkpoint after one step of a network of one layer, and what goes on from it."""
    folder = tmp_path_factory.mktemp("state")
    network, optimiser = one_layer()
    network(torch.ones(2, 3)).sum().backward()
    optimiser.step()
    Checkpoints(folder).save(Progress(step=1, position=4, sums=EpochSums(clips=4)), network, optimiser)
    return folder / "last.ckpt"


def one_layer():
    network = torch.nn.Linear(3, 4)
    return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.faults
@pytest.mark.parametrize("case", CRAFTED_STATE)
def test_every_crafted_checkpoint_is_one_clear_error_and_changes_nothing(small_state, tmp_path, case):
    (tmp_path / "last.ckpt").write_bytes(small_state.read_bytes())
    network, optimiser = one_layer()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    craft, words = CRAFTED_STATE[case]
    craft(tmp_path / "last.ckpt")
    next_step = "restore one of them, or remove both to train from the start$"
    with pytest.raises(CheckpointError, match=f"(?s)last.ckpt .*{words}.*: {next_step}"):
        Checkpoints(tmp_path).restore(network, optimiser)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not optimiser.state
    (tmp_path / "previous.ckpt").write_bytes(small_state.read_bytes())
    progress, trouble = Checkpoints(tmp_path).restore(network, optimiser)
    assert (progress.step, progress.position, progress.sums.clips) == (1, 4, 4)
    assert "previous.ckpt" in trouble
    assert len(optimiser.state) == 2


@pytest.mark.faults
@pytest.mark.parametrize("case", CRAFTED)
def test_every_crafted_file_of_weights_is_one_clear_error(small_run, case):
    folder = RunFolder(small_run)
    craft, words = CRAFTED[case]
    craft(folder.weights("last"))
    next_step = re.escape(f"restore it, or `{folder.resume_command()}` writes it again")
    with pytest.raises(CheckpointError, match=f"(?s)last.safetensors .*{words}.*; {next_step}"):
        folder.read_network()
    of_tensors = "weight" in case or "dtype" in case
    if not of_tensors:
        with pytest.raises(CheckpointError, match=f"(?s)last.safetensors .*{words}.*; {next_step}"):
            folder.weights_header()


@pytest.fixture
def small_run(tiny_store, tmp_path):
    """A run with weights and no checkpoint."""
    return untrained_run(tmp_path / "a", open_store(tiny_store)).path


@pytest.mark.faults
def test_any_flipped_bit_and_any_cut_show(tmp_path):
    rng, path = random.Random(0), tmp_path / "x.safetensors"
    tensors = {"b": torch.randn(3, 5), "a": torch.arange(7), "empty": torch.zeros(0), "one": torch.tensor(2.5)}
    header = {"step": 3, "name": "ü", "best": None}
    write_tensors(path, tensors, header)
    back, told = read_tensors(path)
    assert told == header
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert back.keys() == tensors.keys()
    good = path.read_bytes()
    for _ in range(FLIPS):
        bit = rng.randrange(8 * len(good))
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            found, told = read_tensors(path)
        except CheckpointError:
            continue
        assert told == header, f"bit {bit} changed the header and nobody noticed"
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items()), f"bit {bit}"
        assert found.keys() == tensors.keys()
    for size in sorted(rng.sample(range(len(good)), 20)):
        path.write_bytes(good[:size])
        with pytest.raises(CheckpointError):
            read_tensors(path)


def test_what_was_read_and_checked_stays_when_the_file_changes(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {})
    tensors, _ = read_tensors(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(tensors["a"], torch.ones(3))


def test_a_full_disk_leaves_what_was_there(small_disk):
    path = small_disk / "x.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {"step": 1})
    fill(small_disk)
    with pytest.raises(RunWriteError, match=r"x.safetensors could not be written \(No space left .*make room"):
        write_tensors(path, {"a": torch.zeros(300_000)}, {"step": 2})
    assert {entry.name for entry in small_disk.iterdir()} == {path.name, "filler"}
    tensors, header = read_tensors(path)
    assert header == {"step": 1}
    assert torch.equal(tensors["a"], torch.ones(3))


@pytest.mark.faults
def test_a_disk_that_fills_up_stops_training_with_one_error_and_resume_works(
    whole, train_tiny, small_disk, monkeypatch
):
    take_step, steps = TrainStep.__call__, []

    def filling(self, *arguments, **named):
        steps.append(None)
        if len(steps) == 5:
            fill(small_disk)
        return take_step(self, *arguments, **named)

    monkeypatch.setattr(TrainStep, "__call__", filling)
    with pytest.raises(RunWriteError, match=r"written \(No space left .*make room \(0 bytes free\).*--resume"):
        train_tiny("a", runs=small_disk / "runs", checkpoint_seconds=0.0)
    assert len(steps) in (5, 6), "it struck at work"
    folder = small_disk / "runs" / "a"
    assert read_tensors(folder / "last.ckpt")[1]["step"] in (4, 5)
    assert not list(folder.glob(".*.partial"))
    with pytest.raises(RunWriteError, match="No space left"):
        train_tiny("a", runs=small_disk / "runs", resume=True)
    (small_disk / "filler").unlink()
    train_tiny("a", runs=small_disk / "runs", resume=True)
    assert_same_weights(folder, whole)


def note_a_hundred_steps(history: History, begun: int) -> None:
    with history:
        for step in range(begun + 1, begun + 101):
            history.add("step", epoch=0, step=step, loss=0.5, top1=0.5, lr=0.5)


@pytest.mark.faults
@pytest.mark.parametrize(("name", "begun"), [("metrics.jsonl", 50), ("events.out.tfevents.*", 0)])
def test_metrics_that_cannot_be_written_are_one_error(tmp_path, name, begun):
    """With a limit on the size of files, which the kernel enforces where there is no small disk."""
    metrics = tmp_path / "metrics.jsonl"
    with History(metrics, Progress()) as history:
        for step in range(1, begun + 1):
            history.add("step", epoch=0, step=step)
    history = History(metrics, Progress(step=begun))
    (largest,) = tmp_path.glob(name)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest.stat().st_size + 900, before[1]))
    try:
        with pytest.raises(RunWriteError, match=r"metrics.jsonl could not be written \(File too large\)"):
            note_a_hundred_steps(history, begun)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = [line["step"] for line in read_metrics(metrics)]
    assert kept == list(range(1, len(kept) + 1))
    assert begun < len(kept) < begun + 100, "it struck at work"
    with History(metrics, Progress(step=begun + 1)) as history:
        history.add("step", epoch=0, step=begun + 2)
    assert [line["step"] for line in read_metrics(metrics)] == list(range(1, begun + 3))


@pytest.mark.parametrize("text", ["nope", "[1]", "3", '{"kind": "step"}', '{"kind": "step", "epoch": "1", "step": 1}'])
def test_metrics_that_are_none_are_told(tmp_path, text):
    good = '{"kind": "step", "epoch": 0, "step": 1}'
    (tmp_path / "metrics.jsonl").write_text(f"{good}\n{text}\n{good}\n")
    with pytest.raises(RunError, match=r"metrics.jsonl, line 2: got .* expected an object .*remove that line"):
        History(tmp_path / "metrics.jsonl", Progress(step=5))
    (tmp_path / "metrics.jsonl").write_text(f"{good}\n{text}")
    assert read_metrics(tmp_path / "metrics.jsonl") == [json.loads(good)], "a torn last line is none"
