"""UCF101's folders and lists, as distributed, incomplete, nested, misspelt."""

import shutil
from pathlib import Path

import pytest
from tests.pipeline.conftest import write_ucf101_lists

from resact.errors import SourceError, UsageError
from resact.pipeline.datasets.dataset import limited
from resact.pipeline.datasets.registry import load_dataset
from resact.pipeline.datasets.ucf101 import UCF101

CLASSES = ["Biking", "Carphone"]


@pytest.fixture
def root(ucf101: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(ucf101, tmp_path / "root"))


def test_ids_labels_groups_and_all_three_splits(ucf101: Path) -> None:
    dataset = UCF101.load(ucf101, classes=CLASSES)
    assert len(dataset.videos) == 32
    video = next(v for v in dataset.videos if v.video_id == "v_Carphone_g02_c03")
    assert (video.class_name, video.label, video.group) == ("Carphone", 1, "v_Carphone_g02")
    assert video.splits == {"split1": "test", "split2": "train", "split3": "train"}
    assert video.name == "UCF-101/Carphone/v_Carphone_g02_c03.avi"
    assert (dataset.settings.videos, dataset.settings.all_classes) == (13_320, 101)


def test_groups_stay_on_one_side_of_every_split(ucf101: Path) -> None:
    sides: dict[tuple[str, str], set[str]] = {}
    for video in UCF101.load(ucf101, classes=CLASSES).videos:
        for split, side in video.splits.items():
            sides.setdefault((split, video.group), set()).add(side)
    assert all(len(side) == 1 for side in sides.values())


def test_a_partial_copy_is_refused_with_counts_unless_a_part_is_asked_for(ucf101: Path) -> None:
    with pytest.raises(SourceError, match=r"holds 32 of the 13,320 videos and 2 of the 101 classes .*--allow-partial"):
        UCF101.load(ucf101)
    dataset = UCF101.load(ucf101, allow_partial=True)
    assert (len(dataset.videos), len(dataset.missing), len(dataset.settings.classes)) == (32, 13_288, 101)


def test_a_class_with_missing_videos_is_refused_too(root: Path) -> None:
    (root / "UCF-101" / "Biking" / "v_Biking_g02_c01.avi").unlink()
    with pytest.raises(SourceError, match=r"holds 31 of the 32 videos .*v_Biking_g02_c01"):
        UCF101.load(root, classes=CLASSES)
    assert UCF101.load(root, classes=CLASSES, allow_partial=True).missing == ("v_Biking_g02_c01",)


def test_the_class_that_the_lists_spell_in_two_ways(tmp_path: Path) -> None:
    write_ucf101_lists(tmp_path, {"HandstandPushups": 8})
    for path in (tmp_path / "ucfTrainTestlist").iterdir():
        if path.name != "classInd.txt":
            path.write_bytes(path.read_bytes().replace(b"/v_HandstandPushups", b"/v_HandStandPushups"))
    folder = tmp_path / "UCF-101" / "HandstandPushups"
    folder.mkdir(parents=True)
    for number in range(8):
        spelling = "HandStandPushups" if number % 2 else "HandstandPushups"
        (folder / f"v_{spelling}_g{number // 4 + 1:02}_c{number % 4 + 1:02}.avi").touch()
    dataset = UCF101.load(tmp_path, classes=["HandstandPushups"])
    assert len(dataset.videos) == 8
    assert all(v.problem is None and v.video_id.startswith("v_HandStandPushups_g0") for v in dataset.videos)


@pytest.mark.parametrize("nested", [("UCF-101/UCF-101", "ucfTrainTestlist"), ("UCF-101", "UCF-101/ucfTrainTestlist")])
def test_nested_or_side_by_side(ucf101: Path, tmp_path: Path, nested: tuple[str, str]) -> None:
    for source, target in zip(("UCF-101", "ucfTrainTestlist"), nested, strict=True):
        shutil.copytree(ucf101 / source, tmp_path / target)
    assert len(UCF101.load(tmp_path, classes=CLASSES).videos) == 32


def test_found_below_the_data_folder(ucf101: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESACT_DATA", str(tmp_path))
    with pytest.raises(SourceError, match=r"UCF101.rar.*https://www.crcv.ucf.edu"):
        load_dataset("ucf101")
    (tmp_path / "ucf101").symlink_to(ucf101)
    assert len(load_dataset("ucf101", classes=CLASSES).videos) == 32
    (tmp_path / "ucfTrainTestlist").mkdir()
    assert UCF101.plan_fetch(None) is None, "lists above it do not hide a complete folder"


def test_files_that_no_list_names_are_kept_with_the_reason(root: Path) -> None:
    biking = root / "UCF-101" / "Biking"
    (biking / "holiday.avi").touch()
    (biking / ".hidden").touch()
    (biking / "Thumbs.db").touch()
    (root / "UCF-101" / "Tango").mkdir()
    dataset = UCF101.load(root, classes=CLASSES)
    extra = [v for v in dataset.videos if v.problem]
    assert [(v.video_id, v.splits) for v in extra] == [("Biking/holiday.avi", {})]
    assert any("Tango is not a class of ucf101" in note for note in dataset.notes)


def test_wrong_classes_and_lists(ucf101: Path, root: Path) -> None:
    with pytest.raises(UsageError, match="got class 'Bikin', expected one of the 101 classes, such as Biking"):
        UCF101.load(ucf101, classes=["Bikin"])
    with pytest.raises(UsageError, match="empty --classes"):
        UCF101.load(ucf101, classes=[])
    lists = root / "ucfTrainTestlist"
    whole = (lists / "testlist01.txt").read_bytes()
    for number in (1, 2, 3):
        for side in ("train", "test"):
            path = lists / f"{side}list0{number}.txt"
            path.write_bytes(path.read_bytes().replace(b"v_Biking_g04_c04", b"v_Biking_g04_c03"))
    with pytest.raises(SourceError, match="name 13,319 videos and 101 classes, expected 13,320 and 101"):
        UCF101.load(root, classes=CLASSES)
    whole_train = (lists / "trainlist01.txt").read_bytes()
    (lists / "trainlist01.txt").write_bytes(whole)
    with pytest.raises(SourceError, match="both in train and in test of split1"):
        UCF101.load(root, classes=CLASSES)
    (lists / "trainlist01.txt").write_bytes(whole_train)
    (lists / "testlist01.txt").write_bytes(whole + b"\xff/v_\xff_g01_c01.avi\r\n")
    with pytest.raises(SourceError, match="leave 1 videos out of a split"):
        UCF101.load(root, classes=CLASSES)
    (lists / "testlist03.txt").unlink()
    with pytest.raises(SourceError, match=r"testlist03.txt is missing"):
        UCF101.load(root, classes=CLASSES)
    (lists / "classInd.txt").write_bytes(b"1\r\n2 Archery\r\n")
    with pytest.raises(SourceError, match=r"classInd.txt: got '1', expected a number and a class: fetch the lists"):
        UCF101.load(root, classes=CLASSES)


def test_limit_takes_classes_sides_and_groups_in_turn_and_grows_by_adding(ucf101: Path) -> None:
    dataset = UCF101.load(ucf101, classes=CLASSES)
    four = [v.video_id for v in limited(dataset, 4).videos]
    assert four == ["v_Biking_g03_c01", "v_Carphone_g03_c01", "v_Biking_g01_c01", "v_Carphone_g01_c01"]
    groups = {video.group for video in limited(dataset, 8).videos}
    assert groups == {f"v_{name}_g0{group}" for name in CLASSES for group in range(1, 5)}
    taken: list[str] = []
    for limit in range(1, 33):
        now = [v.video_id for v in limited(dataset, limit).videos]
        assert now[:-1] == taken
        taken = now
    assert limited(dataset, None) is dataset
    with pytest.raises(UsageError, match="at least 1"):
        limited(dataset, 0)


def test_the_genuine_lists_and_six_classes(genuine: Path) -> None:
    classes = ["BasketballDunk", "BodyWeightSquats", "JumpingJack", "PlayingPiano", "PlayingViolin", "PushUps"]
    dataset = UCF101.load(genuine, classes=classes)
    assert (len(dataset.videos), dataset.missing) == (673, ())
    sides = [v.splits["split1"] for v in dataset.videos]
    assert (sides.count("train"), sides.count("test")) == (483, 190)
    with pytest.raises(SourceError, match="holds 673 of the 13,320 videos and 6 of the 101 classes"):
        UCF101.load(genuine)
