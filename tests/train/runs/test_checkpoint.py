"""Checkpoints that are cut, flipped, crafted or gone."""

import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.conftest import GAUNTLET
from tests.train.runs.conftest import assert_same_weights

from resact.errors import CheckpointError, DiskFullError
from resact.train.runs import tensors as module
from resact.train.runs.checkpoint import Checkpoints
from resact.train.runs.folder import RunFolder
from resact.train.runs.history import read_metrics
from resact.train.runs.tensors import read_header, read_tensors, write_tensors

FLIPS = 2000 if GAUNTLET else 60


@pytest.fixture
def halted(train_tiny, tmp_path, monkeypatch):
    """A run as a power cut leaves it, with `last.ckpt` of step 5 and `previous.ckpt` of step 4; and the same run as it
    ends when nothing befalls it."""
    whole = Path(train_tiny("whole", runs=tmp_path / "undisturbed").run)

    class PowerCutError(Exception):
        pass

    save = Checkpoints.save

    def cut(self, progress, network, optimiser):
        save(self, progress, network, optimiser)
        if progress.step == 5:
            raise PowerCutError

    monkeypatch.setattr(Checkpoints, "save", cut)
    with pytest.raises(PowerCutError):
        train_tiny("a", checkpoint_seconds=0.0)
    monkeypatch.setattr(Checkpoints, "save", save)
    folder = RunFolder(tmp_path / "runs" / "a")
    assert [read_header(folder.path / f"{name}.ckpt")["step"] for name in ("last", "previous")] == [5, 4]
    return folder, whole


def go_on(train_tiny, tmp_path) -> str:
    with (tmp_path / "out.txt").open("w") as file:
        train_tiny("a", resume=True, console=Console(file=file, soft_wrap=True))
    return (tmp_path / "out.txt").read_text()


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
def test_the_previous_checkpoint_is_used_and_said_so(halted, train_tiny, tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    folder, whole = halted
    damage(folder.path / "last.ckpt")
    text = go_on(train_tiny, tmp_path)
    assert f"going on from {folder.path / 'previous.ckpt'}, step 4" in text
    assert damage is Path.unlink or "last.ckpt" in text
    assert not (tmp_path / "pwned").exists(), "a file of tensors ran code"
    assert_same_weights(folder.path, whole)
    steps = [line["step"] for line in read_metrics(folder.metrics) if line["kind"] == "step"]
    assert steps == list(range(1, 10))


@pytest.mark.faults
def test_where_none_is_whole_it_says_so_and_touches_nothing(halted, train_tiny, tmp_path):
    folder, _ = halted
    cut_short(folder.path / "last.ckpt")
    flip_a_bit(folder.path / "previous.ckpt")
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    with pytest.raises(CheckpointError, match=r"last.ckpt is damaged .*previous.ckpt does not match its checksum.*"):
        train_tiny("a", resume=True)
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


@pytest.mark.faults
def test_a_checkpoint_of_another_network_is_refused(halted, train_tiny, tmp_path):
    folder, _ = halted
    other = Path(train_tiny("other", modality="both", epochs=1).run)
    for name in ("last.ckpt", "previous.ckpt"):
        (folder.path / name).write_bytes((other / "last.ckpt").read_bytes())
    with pytest.raises(CheckpointError, match="is not of this run"):
        train_tiny("a", resume=True)


@pytest.mark.faults
def test_crafted_weights_are_refused_without_running_them(train_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(train_tiny(epochs=1).run)
    for attack in (craft, craft_with_torch):
        attack(folder.weights("last"))
        with pytest.raises(CheckpointError, match=r"not written by resact.*nothing in it was run"):
            folder.read_network()
        assert not (tmp_path / "pwned").exists()
    folder.weights("last").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        folder.read_network()
    train_tiny(resume=True)
    assert folder.read_network()[1].epoch == 1, "going on with a run that is done brings its weights back"


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


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {"step": 1})

    def full(path, data):
        path.write_bytes(data[:10])
        path.unlink()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_synced", full)
    with pytest.raises(DiskFullError, match="no room left"):
        write_tensors(path, {"a": torch.zeros(3)}, {"step": 2})
    monkeypatch.undo()
    tensors, header = read_tensors(path)
    assert header == {"step": 1}
    assert torch.equal(tensors["a"], torch.ones(3))
