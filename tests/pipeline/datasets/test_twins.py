"""One file with several names is one video, or an error: never in two classes, nor on two sides."""

from pathlib import Path

import pytest
from tests.pipeline.datasets.trees import fill, make, stored_sides, touch, two_classes

from resact.errors import SourceError
from resact.pipeline.datasets.folder import FOLDER


def link(path: Path, target: Path, *, hard: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if hard:
        path.hardlink_to(target)
    else:
        path.symlink_to(target)


@pytest.mark.parametrize("hard", [False, True])
def test_a_file_with_two_names_in_a_class_is_taken_once(tmp_path: Path, hard: bool) -> None:
    root = two_classes(tmp_path)
    link(root / "Walk" / "anna" / "again.mp4", root / "Walk" / "0.mp4", hard=hard)
    link(root / "Run" / "9.mp4", root / "Run" / "1.mp4", hard=hard)
    dataset = FOLDER.load(root)
    assert [v.name for v in dataset.videos] == [f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(4)]
    words = "left out: other names of files that are already used: 2 (Run/9.mp4, Walk/anna/again.mp4)"
    assert words in dataset.notes
    assert {v.video_id: v.splits for v in dataset.videos} == {
        v.video_id: v.splits for v in FOLDER.load(two_classes(tmp_path / "plain")).videos
    }, "sides are those of a tree without the links"


def test_where_no_link_leads_there_is_the_name_that_counts(tmp_path: Path) -> None:
    root = touch(tmp_path / "v", "Walk/z.mp4", "Run/1.mp4")
    touch(tmp_path / "elsewhere", "x.mp4")
    link(root / "Walk" / "a.mp4", root / "Walk" / "z.mp4")
    link(root / "Walk" / "d.mp4", tmp_path / "elsewhere" / "x.mp4")
    link(root / "Walk" / "c.mp4", tmp_path / "elsewhere" / "x.mp4")
    assert [v.name for v in FOLDER.load(root).videos] == ["Run/1.mp4", "Walk/c.mp4", "Walk/z.mp4"]


@pytest.mark.parametrize("hard", [False, True])
def test_a_file_in_two_classes_is_refused_with_its_names(tmp_path: Path, hard: bool) -> None:
    root = two_classes(tmp_path)
    link(root / "Walk" / "9.mp4", root / "Run" / "0.mp4", hard=hard)
    words = "has 1 videos in several classes, such as 'Run/0.mp4' and 'Walk/9.mp4', which are one file: remove all but"
    with pytest.raises(SourceError, match=words):
        FOLDER.load(root)
    assert len(FOLDER.load(root, classes=["Walk"]).videos) == 5, "of one of the two classes it is no trouble"
    csv = root / "splits.csv"
    csv.write_text("video,membership\nRun/0.mp4,train\nRun/1.mp4,test\nWalk/1.mp4,train\nWalk/2.mp4,test\n")
    assert len(FOLDER.load(root, splits=csv).videos) == 4
    csv.write_text(csv.read_text() + "Walk/9.mp4,train\n")
    with pytest.raises(SourceError, match="in several classes"):
        FOLDER.load(root, splits=csv)


@pytest.mark.parametrize(
    "links",
    [
        {"Run/more": "Walk"},
        {"Walk/more": "Run"},
        {"Run/more": "Walk", "Walk/more": "Run"},
        {"Stroll": "Walk"},
        {"Run/x": "../outside", "Walk/y": "../outside"},
    ],
    ids=str,
)
def test_a_folder_in_two_classes_is_refused_too_whichever_is_searched_first(
    tmp_path: Path, links: dict[str, str]
) -> None:
    root = two_classes(tmp_path / "v")
    touch(tmp_path / "outside", "a.mp4", "b.mp4")
    for name, target in links.items():
        link(root / name, (root / target).resolve())
    with pytest.raises(SourceError, match="in several classes, such as"):
        FOLDER.load(root)


def test_a_csv_may_not_put_one_file_on_two_sides(tmp_path: Path) -> None:
    root, csv = two_classes(tmp_path / "v"), tmp_path / "splits.csv"
    link(root / "Walk" / "9.mp4", root / "Walk" / "0.mp4")
    csv.write_text("video,membership\nWalk/0.mp4,train\nWalk/9.mp4,test\n")
    with pytest.raises(SourceError, match=r"has 'Walk/0.mp4' and 'Walk/9.mp4' on different sides, and they are one fi"):
        FOLDER.load(root, splits=csv)
    csv.write_text("video,membership\nWalk/0.mp4,train\nWalk/9.mp4,train\n")
    assert [v.name for v in FOLDER.load(root, splits=csv).videos] == ["Walk/0.mp4"]
    csv.write_text("video,membership\nWalk/9.mp4,train\n")
    assert [v.name for v in FOLDER.load(root, splits=csv).videos] == ["Walk/9.mp4"], "the name that the list has"


def test_copies_and_files_without_a_length_are_no_twins(tmp_path: Path) -> None:
    root = touch(tmp_path, "Run/1.mp4", "Run/2.mp4", "Walk/1.mp4")
    link(root / "Walk" / "gone.mp4", Path("nowhere"))
    link(root / "Run" / "gone.mp4", Path("nowhere"))
    assert len(FOLDER.load(root).videos) == 5


def test_a_file_that_the_store_holds_is_not_added_under_another_name(tmp_path: Path, tiny_video: bytes) -> None:
    root = fill(tmp_path / "v", tiny_video, "Run/1.mp4", "Run/2.mp4", "Walk/5.mp4", "Walk/6.mp4")
    before = stored_sides(make(root, tmp_path / "s.zarr")[0])
    link(root / "Walk" / "0.mp4", root / "Walk" / "5.mp4", hard=True)
    store, printed = make(root, tmp_path / "s.zarr")
    assert stored_sides(store) == before
    assert "nothing to do, 3 are already stored" in printed, "of what it would add, all is there"
