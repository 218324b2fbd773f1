"""A user's own tree of videos: what is found in it, and what is left out, with a note."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipeline.conftest import resact
from tests.pipeline.datasets.trees import STRANGE, groups_of, sides_of, touch, two_classes

from resact.cache.layout import array_name, video_id_of
from resact.cli.reference import commands
from resact.errors import SourceError, UsageError
from resact.pipeline.datasets.folder import FOLDER
from resact.pipeline.datasets.registry import DATASETS, dataset_kind, load_dataset

# What is found ----------------------------------------------------------------------------------------------


def test_classes_are_the_folders_in_order_and_ids_the_paths_below_the_root(tmp_path: Path) -> None:
    touch(tmp_path / "mine", "Walk/b.mp4", "Walk/a.webm", "Run/day 1/x/c.mov", "jump/d.MKV")
    dataset = FOLDER.load(tmp_path / "mine")
    assert dataset.settings.classes == ("Run", "Walk", "jump")
    assert [(v.video_id, v.label, v.class_name, v.path) for v in dataset.videos] == [
        ("Run/day 1/x/c.mov", 0, "Run", tmp_path / "mine" / "Run/day 1/x/c.mov"),
        ("Walk/a.webm", 1, "Walk", tmp_path / "mine" / "Walk/a.webm"),
        ("Walk/b.mp4", 1, "Walk", tmp_path / "mine" / "Walk/b.mp4"),
        ("jump/d.MKV", 2, "jump", tmp_path / "mine" / "jump/d.MKV"),
    ]
    assert all(v.name == v.video_id for v in dataset.videos)
    assert (dataset.settings.name, dataset.settings.splits) == ("mine", ("split1",))
    assert FOLDER.load(tmp_path / "mine", classes=["jump", "Run"]).settings.classes == ("Run", "jump")


def test_strange_names_have_ids_that_a_store_can_have(tmp_path: Path) -> None:
    touch(tmp_path / "v", *(f"Walk/{name}" for name in STRANGE))
    videos = FOLDER.load(tmp_path / "v").videos
    assert {v.name for v in videos} == {f"Walk/{name}" for name in STRANGE}
    names = {array_name(v.video_id) for v in videos}
    assert len({name.casefold() for name in names}) == len(STRANGE)
    assert {video_id_of(name) for name in names} == {v.video_id for v in videos}
    assert sum(v.video_id == v.name for v in videos) == len(STRANGE) - 1, "all but one are short enough as they are"


@settings(max_examples=60)
@given(st.sets(st.binary(min_size=1, max_size=90).filter(lambda raw: not {0, 47} & set(raw)), min_size=1, max_size=3))
def test_every_name_that_a_file_can_have_is_found_or_named(
    tmp_path_factory: pytest.TempPathFactory, names: set[bytes]
) -> None:
    root = tmp_path_factory.mktemp("names")
    (root / "Walk").mkdir()
    written = {os.fsdecode(raw + b"x.mp4") for raw in names}
    for name in written:
        (root / "Walk" / name).touch()
    dataset = FOLDER.load(touch(root, "Walk/known.mp4"))
    hidden = {name for name in written if name.startswith(".")}
    assert {v.name for v in dataset.videos} == {f"Walk/{name}" for name in written - hidden} | {"Walk/known.mp4"}
    assert len({array_name(v.video_id) for v in dataset.videos}) == len(dataset.videos)
    for note in dataset.notes:
        note.encode()


def test_what_is_no_video_is_left_out_and_said(tmp_path: Path) -> None:
    touch(
        two_classes(tmp_path), "Walk/.DS_Store", "Walk/._0.mp4", ".git/x.mp4", "Walk/Thumbs.db", "__MACOSX/Walk/0.mp4",
        "Walk/0.JPG", "Walk/labels.csv", "Walk/sub/half.mp4.part", "README.md", "loose.mp4", "Empty/notes.txt",
        "Walk/old.zarr/zarr.json", "old.zarr/zarr.json", "old.zarr/v/0.0.0.0",
    )  # fmt: skip
    dataset = FOLDER.load(tmp_path)
    assert [v.name for v in dataset.videos] == [f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(4)]
    assert dataset.notes[:4] == (
        "left out: files outside the class folders: 2 (README.md, loose.mp4)",
        "left out: files that are not videos: 4 (Empty/notes.txt, Walk/0.JPG, Walk/labels.csv and 1 more)",
        "left out: folders without videos, which are not classes: 1 (Empty)",
        "left out: Zarr stores: 2 (Walk/old.zarr, old.zarr)",
    )


def test_links_to_videos_and_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "v")
    touch(tmp_path / "elsewhere", "more/e.mp4", "f.mp4")
    (root / "Walk" / "link.mp4").symlink_to(tmp_path / "elsewhere" / "f.mp4")
    (root / "Walk" / "folder").symlink_to(tmp_path / "elsewhere" / "more")
    (root / "Walk" / "gone.mp4").symlink_to("nowhere")
    (root / "Walk" / "itself").symlink_to("itself")
    (root / "Walk" / "loop").symlink_to("..")
    (root / "Walk" / "second").symlink_to("folder")
    (root / "Walk" / "sub").mkdir()
    (root / "Walk" / "sub" / "up").symlink_to("..")
    dataset = FOLDER.load(root)
    assert [v.name for v in dataset.videos if v.class_name == "Walk"] == [
        "Walk/0.mp4", "Walk/1.mp4", "Walk/2.mp4", "Walk/3.mp4", "Walk/folder/e.mp4", "Walk/gone.mp4", "Walk/itself",
        "Walk/link.mp4",
    ]  # fmt: skip
    assert "left out: folders reached by a second link: 3 (Walk/loop, Walk/second, Walk/sub/up)" in dataset.notes


def test_folders_that_are_no_such_tree_are_refused(tmp_path: Path) -> None:
    for name, files, words in (
        ("empty", [], "has no folder with videos in it, expected DIR/<class>/<video>"),
        ("flat", ["a.mp4"], "has no folder with videos in it"),
        ("twins", ["caf\u00e9/a.mp4", "cafe\u0301/a.mp4"], r"'cafe\\u0301' and 'caf\\xe9', which look alike"),
        ("cases", ["Walk/a.mp4", "walk/b.mp4"], "the folders 'Walk' and 'walk', which look alike"),
        ("bytes", ["Walk\udcff/a.mp4"], r"'Walk\\udcff', whose name is not UTF-8"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(SourceError, match=words):
            FOLDER.load(touch(tmp_path / name, *files))
    with pytest.raises(SourceError, match="nowhere' cannot be searched for videos: No such file"):
        FOLDER.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="needs --root DIR"):
        FOLDER.load(None)


def test_names_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_classes(tmp_path / "UCF101")
    with pytest.raises(UsageError, match="a folder named 'UCF101', which is the name of another data set"):
        FOLDER.load(tmp_path / "UCF101")
    assert FOLDER.load(tmp_path / "UCF101", name="my ucf").settings.name == "my ucf"
    for name in ("", "a/b", ".hidden", "line\n", "sample", "bad\udcff"):
        with pytest.raises(UsageError, match="got --name"):
            FOLDER.load(tmp_path / "UCF101", name=name)
    (tmp_path / "link").symlink_to("UCF101")
    monkeypatch.chdir(tmp_path / "UCF101" / "Run")
    assert FOLDER.load(Path("../../link")).settings.name == "link"


# Groups and sides -------------------------------------------------------------------------------------------


def test_groups_are_in_the_name_or_else_the_sub_folder_or_else_the_video(tmp_path: Path) -> None:
    expected = {
        "Run/anna/v_g1_c2.mp4": "v_g1",
        "Run/x.mp4": "Run/x.mp4",
        "Walk/anna/1.mp4": "anna",
        "Walk/anna/day/2.mp4": "anna",
        "Walk/v_Walk_g07_c01.avi": "v_Walk_g07",
    }
    assert groups_of(touch(tmp_path, *expected)) == expected


def test_a_pattern_names_the_groups(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/p{n:02}_{c}_{i}.mp4" for c in ("Run", "Walk") for n in range(8) for i in range(2)))
    touch(tmp_path, "Run/other.mp4")
    dataset = FOLDER.load(tmp_path, group_pattern=r"/(p\d+)_")
    assert {v.group for v in dataset.videos} == {f"p{n:02}" for n in range(8)} | {"Run/other.mp4"}
    assert "1 videos do not match --group-pattern: each is its own group (Run/other.mp4)" in dataset.notes
    sides: dict[str, set[str]] = {}
    for video in dataset.videos:
        sides.setdefault(video.group, set()).add(video.splits["split1"])
    assert {len(both) for both in sides.values()} == {1}, "nobody is seen in training and in test"
    for pattern, words in (("p(", "not a regular"), ("p.", "one pair"), ("(p)(.)", "one pair"), ("(zz)", "no path")):
        with pytest.raises(UsageError, match=words):
            FOLDER.load(tmp_path, group_pattern=pattern)


def test_the_share_and_the_seed_decide_and_classes_that_are_asked_for_do_not(tmp_path: Path) -> None:
    two_classes(tmp_path, 10)
    sides = sides_of(tmp_path)
    for name in ("Run", "Walk"):
        assert [side for video, side in sides.items() if video.startswith(name)].count("test") == 3
    assert sides_of(tmp_path, classes=["Walk"]).items() <= sides.items()
    assert sides_of(tmp_path, split_seed=1) != sides
    assert list(sides_of(tmp_path, test_share=0.5).values()).count("test") == 10
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="--test-share"):
            FOLDER.load(tmp_path, test_share=share)


def test_a_class_of_one_group_is_for_training_and_said(tmp_path: Path) -> None:
    touch(two_classes(tmp_path), "Jump/all/1.mp4", "Jump/all/2.mp4")
    dataset = FOLDER.load(tmp_path)
    assert {v.splits["split1"] for v in dataset.videos if v.class_name == "Jump"} == {"train"}
    assert any("split1 has no videos on both sides of 1 classes (Jump)" in note for note in dataset.notes)


def test_flips_are_safe_unless_said_otherwise(tmp_path: Path) -> None:
    two_classes(tmp_path)
    assumed, safe, unsafe = (FOLDER.load(tmp_path, flip_safe=flip) for flip in (None, True, False))
    assert [d.settings.flip_safe for d in (assumed, safe, unsafe)] == [True, True, False]
    assert [any("--not-flip-safe" in note for note in d.notes) for d in (assumed, safe, unsafe)] == [True, False, False]


def test_a_csv_says_who_is_where(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "v", 3)
    csv = root / "splits.csv"
    csv.write_text("video,membership,split,group\nRun/0.mp4,train,a,x\nRun/1.mp4,test,a,x\nWalk/0.mp4,test,b,\n")
    dataset = FOLDER.load(root, splits=csv)
    assert {v.video_id: (v.splits, v.group) for v in dataset.videos} == {
        "Run/0.mp4": ({"a": "train"}, "x"),
        "Run/1.mp4": ({"a": "test"}, "x"),
        "Walk/0.mp4": ({"b": "test"}, "Walk/0.mp4"),
    }
    assert (dataset.settings.splits, dataset.settings.division, dataset.division) == (("a", "b"), None, None)
    assert dataset.notes[0].startswith(f"left out: videos that {csv} does not name: 3 (Run/2.mp4, Walk/1.mp4")
    assert "a has videos of 1 groups on more than one side (x)" in dataset.notes
    with pytest.raises(UsageError, match="got --splits with --test-share or --split-seed"):
        FOLDER.load(root, splits=csv, split_seed=0)


def test_a_csv_that_names_videos_that_are_not_there(tmp_path: Path) -> None:
    root, csv = two_classes(tmp_path / "v"), tmp_path / "splits.csv"
    csv.write_text("video,membership\nRun/0.mp4,train\n" + "".join(f"Walk/g{n}.mp4,test\n" for n in range(5)))
    named = "Walk/g0.mp4, Walk/g1.mp4, Walk/g2.mp4 and 2 more"
    words = rf"names 5 videos that are not below .*v \({named}\).* such as 'Run/0.mp4'"
    with pytest.raises(SourceError, match=words):
        FOLDER.load(root, splits=csv)
    assert len(FOLDER.load(root, splits=csv, allow_partial=True).missing) == 5
    assert [v.video_id for v in FOLDER.load(root, splits=csv, classes=["Run"]).videos] == ["Run/0.mp4"]
    csv.write_text("video,membership\nWalk/gone.mp4,train\n")
    with pytest.raises(SourceError, match="names 1 videos that are not below"):
        FOLDER.load(root, splits=csv, allow_partial=True)


def test_classes_are_those_that_the_csv_has_videos_of(tmp_path: Path) -> None:
    root, csv = touch(two_classes(tmp_path / "v"), "Junk/x.mp4"), tmp_path / "splits.csv"
    csv.write_text("video,membership\nRun/0.mp4,train\nWalk/0.mp4,test\n")
    dataset = FOLDER.load(root, splits=csv)
    assert dataset.settings.classes == ("Run", "Walk")
    assert (
        f"left out: videos that {csv} does not name: 7 (Junk/x.mp4, Run/1.mp4, Run/2.mp4 and 4 more)" in dataset.notes
    )
    with pytest.raises(UsageError, match="got class 'Junk', expected one of the 2 classes"):
        FOLDER.load(root, splits=csv, classes=["Junk"])


# The registry -----------------------------------------------------------------------------------------------


def test_each_data_set_has_its_name_and_is_in_the_help_of_prep() -> None:
    shown = commands()["prep"].params[0].help  # type: ignore[attr-defined]
    for name in DATASETS:
        assert dataset_kind(name).name == name
        assert name in re.findall(r"\w+", shown)


def test_options_of_one_data_set_are_refused_by_the_others() -> None:
    options = ("name", "list", "classes_file", "splits", "test_share", "split_seed", "group_pattern", "flip_safe")
    for name in set(DATASETS) - {"folder"}:
        for option in options:
            words = f"got --{option.replace('_', '-')}, which belongs to folder, not to {name}"
            with pytest.raises(UsageError, match=words):
                load_dataset(name, options={option: 1})
    with pytest.raises(UsageError, match="got data set 'hmdb', expected one of ucf101, hmdb51, sample, folder"):
        load_dataset("hmdb", options={"name": "x"})


def test_a_folder_as_the_data_set_is_told_the_whole_command(tmp_path: Path) -> None:
    (tmp_path / "my moves").mkdir()
    own = re.escape(f"your own videos: `resact prep folder --root '{tmp_path}/my moves'`")
    with pytest.raises(UsageError, match=own):
        load_dataset(f"{tmp_path}/my moves", options={})


def test_wrong_options_are_told_before_the_sample_is_made(tmp_path: Path) -> None:
    run = resact("prep", "sample", "--root", tmp_path / "s", "--not-flip-safe", "--workers", 0)
    assert run.returncode == 2
    assert "which belongs to folder, not to sample" in run.stderr
    assert not (tmp_path / "s").exists()
