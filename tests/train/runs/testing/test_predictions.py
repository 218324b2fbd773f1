import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import fill
from tests.train.runs.testing.made import make

from resact.errors import RunError, RunWriteError
from resact.train.runs.testing.predictions import read_predictions, write_predictions


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4), st.integers(2, 7))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, seed: int, videos: int, views: int, classes: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "predictions.npz"
    written = make(seed, videos, views, classes)
    write_predictions(path, written)
    read = read_predictions(path)
    for name in ("logits", "starts", "label", "video_id", "group", "classes"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == getattr(written, name).dtype
    assert read.provenance == written.provenance
    assert [entry.name for entry in path.parent.iterdir()] == ["predictions.npz"]


def test_the_same_predictions_are_the_same_bytes(tmp_path: Path) -> None:
    long = "b" * 251 + ".npz"  # as long as the file system allows
    write_predictions(tmp_path / "a.npz", make())
    write_predictions(tmp_path / long, make())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / long).read_bytes()


def test_a_write_that_fails_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "predictions.npz"
    write_predictions(path, make(1))
    fill(small_disk)
    with pytest.raises(RunWriteError, match=r"predictions.npz could not be written \(No space left .*make room"):
        write_predictions(path, make(2))
    np.testing.assert_array_equal(read_predictions(path).logits, make(1).logits)
    assert {entry.name for entry in small_disk.iterdir()} == {path.name, "filler"}


class _Explosive:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (Path("struck"),))


@pytest.mark.parametrize("name", ["video_id", "provenance"])
def test_a_pickled_object_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    good = make()
    arrays = {field: getattr(good, field) for field in ("logits", "starts", "label", "video_id", "group", "classes")}
    arrays["provenance"] = np.array(json.dumps(asdict(good.provenance)))
    arrays[name] = np.array([_Explosive()] * 4, object)
    np.savez(tmp_path / "predictions.npz", **arrays)
    with pytest.raises(RunError, match="Object arrays cannot be loaded when allow_pickle=False"):
        read_predictions(tmp_path / "predictions.npz")
    assert not Path("struck").exists()
    np.load(tmp_path / "predictions.npz", allow_pickle=True)[name]  # it would have
    assert Path("struck").exists()


def test_a_pickle_by_that_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "predictions.npz").write_bytes(pickle.dumps(_Explosive()))
    with pytest.raises(RunError, match="is not what `resact evaluate` writes"):
        read_predictions(tmp_path / "predictions.npz")
    assert not Path("struck").exists()


def test_missing_predictions_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"no predictions at .*: make them with `resact evaluate {tmp_path}`"):
        read_predictions(tmp_path / "predictions.npz")


def test_every_truncation_and_bit_flip_of_an_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    write_predictions(path, make())
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        places = [info.header_offset + 200 for info in archive.infolist()]
    for size in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(RunError, match="is not what `resact evaluate` writes"):
            read_predictions(path)
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(RunError, match="is not what `resact evaluate` writes"):
            read_predictions(path)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("logits", np.zeros((4, 6), np.float32), "logits is float32 \\(4, 6\\)"),
        ("logits", np.zeros((4, 3, 6)), "logits is float64 \\(4, 3, 6\\), expected float32"),
        ("starts", np.zeros((4, 2), np.int64), "starts is int64 \\(4, 2\\), expected int64 \\(4, 3\\)"),
        ("label", np.zeros(5, np.int64), "label is int64 \\(5,\\)"),
        ("label", np.full(4, 6), "labels 6 to 6 of 6 classes"),
        ("video_id", np.zeros(4), "video_id is float64 \\(4,\\), expected str_"),
        ("classes", np.array(["a"]), "classes is <U1 \\(1,\\), expected str_ \\(6,\\)"),
        ("logits", np.full((4, 3, 6), np.nan, np.float32), "not finite, for 4 of 4 videos, such as"),
        ("provenance", np.array("[]"), "is not what"),
        ("provenance", np.array("{}"), "missing 15 required"),
        ("extra", np.zeros(1), "it holds classes, extra,"),
    ],
)
def test_other_shapes_and_kinds_are_refused(tmp_path: Path, name: str, array: Any, words: str) -> None:
    good = make()
    arrays = {field: getattr(good, field) for field in ("logits", "starts", "label", "video_id", "group", "classes")}
    arrays["provenance"] = np.array(json.dumps(asdict(good.provenance)))
    np.savez(tmp_path / "good.npz", **arrays)
    read_predictions(tmp_path / "good.npz")
    np.savez(tmp_path / "predictions.npz", **{**arrays, name: array})
    with pytest.raises(RunError, match=words):
        read_predictions(tmp_path / "predictions.npz")


def test_one_bare_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "predictions.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(RunError, match="one array, expected an archive"):
        read_predictions(tmp_path / "predictions.npz")


def test_a_folder_by_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "predictions.npz").mkdir()
    with pytest.raises(RunError, match="is not what `resact evaluate` writes"):
        read_predictions(tmp_path / "predictions.npz")


def test_an_array_that_says_it_is_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    write_predictions(path, make())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["logits.npy"] = members["logits.npy"].replace(b"(4, 3, 6), }" + b" " * 16, b"(9999999999, 3, 999999), }  ")
    assert b"9999999999" in members["logits.npy"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(RunError, match="is not what `resact evaluate` writes"):
        read_predictions(path)
