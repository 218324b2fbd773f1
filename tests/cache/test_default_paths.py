"""Where stores are looked for."""

from pathlib import Path

import pytest

from resact.cache.default_paths import data_folder, default_store, find_store
from resact.errors import StoreNotFoundError, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESACT_DATA", str(tmp_path))
    return tmp_path


def make(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "zarr.json").touch()
    return folder / name


@pytest.mark.parametrize("value", [None, ""])
def test_the_data_folder_without_the_variable(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESACT_DATA")
    if value is not None:
        monkeypatch.setenv("RESACT_DATA", value)
    assert data_folder() == Path("data")


def test_the_store_lies_beside_the_sources(folder: Path) -> None:
    assert default_store("ucf101") == folder / "ucf101.zarr"


def test_the_only_store_is_found(folder: Path) -> None:
    (folder / "empty.zarr").mkdir()
    (folder / "UCF-101").mkdir()
    store = make(folder, "ucf101.zarr")
    assert find_store() == store


def test_none_and_several_say_so(folder: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"no clip store in .*: make one with"):
        find_store()
    make(folder, "b.zarr")
    make(folder, "a.zarr")
    with pytest.raises(UsageError, match=r"several stores \(.*a\.zarr, .*b\.zarr\): name one"):
        find_store()
