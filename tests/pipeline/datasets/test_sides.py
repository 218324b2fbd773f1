"""Names that say a side are neither classes nor groups."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.pipeline.datasets.trees import groups_of, sides_of, touch, two_classes

from resact.errors import SourceError, UsageError
from resact.pipeline.datasets.folder import FOLDER
from resact.pipeline.datasets.sides import sides_named


def notes_of(root: Path) -> str:
    return "\n".join(FOLDER.load(root).notes)


@pytest.mark.parametrize(
    "names",
    [
        ["train", "val", "test", "replacement"],
        ["train_256", "val_256"],
        ["train-256", "Val 256", "test256"],
        ["k400_train", "k400_val"],
        ["rawframes_train", "rawframes_val"],
        ["replacement_for_corrupted_k400"],
        ["training", "testing"],
        ["trainset", "test_set", "valid", "validation", "held-out"],
        ["TRAIN", "TEST_SPLIT"],
        ["Training_Normal_Videos_Anomaly", "Testing_Normal_Videos_Anomaly"],
        ["train part 1", "train part 2"],
    ],
    ids=lambda names: names[0],
)
def test_names_of_sides(names: list[str], tmp_path: Path) -> None:
    assert set(sides_named(names)) == set(names)
    root = touch(tmp_path / "first", *(f"{name}/Walk/{i}.mp4" for name in names for i in range(2)))
    if any("replacement" in name for name in names):
        with pytest.raises(
            SourceError, match=r"holds replacement.*, expected folders of the sides train, val and test"
        ):
            FOLDER.load(root)
    else:
        dataset = FOLDER.load(touch(root, "train/Walk/1.mp4"))
        kinds = {name: sides_named(names)[name] for name in names}
        assert {v.splits["split1"] for v in dataset.videos} == {"train", *kinds.values()}
        assert all(
            v.splits["split1"] == kinds[v.name.partition("/")[0]] for v in dataset.videos if v.name[:6] != "train/"
        )
        assert dataset.settings.classes == ("Walk",)
    root = touch(tmp_path / "second", *(f"Walk/{name}/{i}.mp4" for name in names for i in range(2)))
    with pytest.raises(
        SourceError, match=r"named like sides, .*: name each video's side in a CSV for --splits, or ren"
    ):
        FOLDER.load(root)


@pytest.mark.parametrize(
    "names",
    [
        ["training dog", "driving car"],
        ["trains", "trainer", "attest", "contest", "valley", "evaluate"],
        ["Valentina", "anna", "Dev"],
        ["test tube", "test drive"],
        ["brushing teeth", "testifying"],
    ],
    ids=lambda names: names[0],
)
def test_names_that_only_look_like_sides(names: list[str], tmp_path: Path) -> None:
    assert sides_named(names) == {}
    assert FOLDER.load(touch(tmp_path / "c", *(f"{n}/{i}.mp4" for n in names for i in range(2)))).videos
    assert FOLDER.load(touch(tmp_path / "g", *(f"Walk/{n}/{i}.mp4" for n in names for i in range(2)))).videos


def refused(root: Path, *files: str) -> str:
    with pytest.raises(SourceError) as caught:
        FOLDER.load(touch(root, *files))
    return str(caught.value)


def test_sides_are_found_wherever_they_are(tmp_path: Path) -> None:
    kinetics = ("train/Walk/a.mp4", "val/Walk/b.mp4", "annotations/Walk/c.mp4")
    assert "holds annotations beside train, val, expected fold" in refused(tmp_path / "beside others", *kinetics)
    deep = ("Walk/anna/train/1.mp4", "Walk/anna/val/2.mp4")
    assert "holds Walk/anna/train, Walk/anna/val, which are named like sides" in refused(tmp_path / "deep", *deep)
    assert "holds Walk/val," in refused(tmp_path / "one class", "Walk/val/1.mp4", "Walk/2.mp4", "Run/1.mp4")
    above = ("k400/train/Walk/1.mp4", "k400/val/Walk/2.mp4")
    assert "holds k400/train, k400/val, which" in refused(tmp_path / "one folder too high", *above)


def test_sides_below_classes_are_refused_with_a_pattern_as_well(tmp_path: Path) -> None:
    touch(tmp_path, "Walk/train/p1_a.mp4", "Walk/val/p2_b.mp4")
    with pytest.raises(SourceError, match="named like sides"):
        FOLDER.load(tmp_path, group_pattern=r"(p\d)_")


def test_the_way_out_of_sides_below_classes_is_a_csv_and_they_are_no_groups(tmp_path: Path) -> None:
    names = [f"{c}/{side}/{file}.mp4" for c in ("Run", "Walk") for side in ("train", "val") for file in ("a", "anna/b")]
    root, csv = touch(tmp_path / "v", *names), tmp_path / "splits.csv"
    csv.write_text("video,membership\n" + "".join(f"{n},{'train' if '/train/' in n else 'test'}\n" for n in names))
    assert sides_of(root, splits=csv) == {name: "train" if "/train/" in name else "test" for name in names}
    assert groups_of(root, splits=csv) == {name: "anna" if "anna" in name else name for name in names}


def run_from_the_docs(mark: str, folder: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text()
    script = text.split(f"<!-- {mark} -->\n```bash\n")[1].partition("```")[0]
    subprocess.run(["bash", "-euc", script], cwd=folder, check=True)


WALKS, SIDES = ("Run", "Walk, fast"), ("train", "val")


def test_the_lines_of_the_documentation_keep_sides_below_classes(tmp_path: Path) -> None:
    names = [f"{name}/{side}/{file}.mp4" for name in WALKS for side in SIDES for file in ("a", "b c")]
    root = touch(tmp_path / "gestures", *names)
    run_from_the_docs("sides below classes", tmp_path)
    assert sides_of(root, splits=root / "splits.csv") == {n: "train" if "/train/" in n else "val" for n in names}


def test_folders_of_sides_above_the_classes_divide_the_videos(tmp_path: Path) -> None:
    names = [
        f"{side}/{name}/{file}.mp4" for side in ("train_256", "val_256", "test") for name in WALKS
        for file in ("a", "anna/b c", "v_Run_g07_c01")
    ]  # fmt: skip
    dataset = FOLDER.load(touch(tmp_path, *names))
    assert {v.video_id: (v.class_name, v.label, v.splits) for v in dataset.videos} == {
        name: (name.split("/")[1], WALKS.index(name.split("/")[1]), {"split1": name.partition("/")[0].split("_")[0]})
        for name in names
    }
    assert (dataset.settings.classes, dataset.settings.division, dataset.division) == (WALKS, None, None)
    assert {v.name: v.group for v in dataset.videos} == {
        n: "anna" if "anna" in n else "v_Run_g07" if "g07" in n else n for n in names
    }
    assert "split1 has videos of 2 groups on more than one side (anna, v_Run_g07)" in dataset.notes
    assert FOLDER.load(tmp_path, classes=["Run"]).settings.classes == ("Run",)
    assert groups_of(tmp_path, group_pattern=r"/([^/]*)\.mp4$")["test/Run/a.mp4"] == "a"
    csv = tmp_path / "s.csv"
    csv.write_text("video,membership\ntest/Run/a.mp4,train\ntrain_256/Run/a.mp4,test\n")
    assert sides_of(tmp_path, splits=csv) == {"test/Run/a.mp4": "train", "train_256/Run/a.mp4": "test"}


def test_trees_of_sides_that_do_not_fit_are_named(tmp_path: Path) -> None:
    flat = refused(tmp_path / "flat", "train/Walk/1.mp4", "val/1.mp4")
    assert "holds val/1.mp4 outside class folders, expected <side>/<class>/<video>" in flat
    lacking = refused(tmp_path / "lacking", "train/Walk/1.mp4", "val/Walk/2.mp4", "val/Run/3.mp4")
    assert "has no training videos of 1 classes (Run): add some" in lacking
    assert FOLDER.load(tmp_path / "lacking", classes=["Walk"]).settings.classes == ("Walk",)
    alike = refused(tmp_path / "alike", "train/Walk/1.mp4", "val/walk/2.mp4")
    assert "the folders 'Walk' and 'walk', which look alike" in alike
    below = refused(tmp_path / "below", "train/Walk/test/1.mp4", "train/Walk/val/2.mp4", "val/Walk/3.mp4")
    assert "holds Walk/test, Walk/val, which are named like sides" in below
    with pytest.raises(UsageError, match="got --test-share, but the folders train, val say which videos are for test"):
        FOLDER.load(touch(tmp_path / "drawn", "train/Walk/1.mp4", "val/Walk/2.mp4"), test_share=0.2)
    twins = touch(tmp_path / "twins", "train/Walk/1.mp4", "val/Walk/2.mp4")
    (twins / "val/Walk/3.mp4").hardlink_to(twins / "train/Walk/1.mp4")
    assert "the folders have 'train/Walk/1.mp4' and 'val/Walk/3.mp4' on different sides, and they are" in refused(twins)


def test_a_tree_without_test_videos_says_how_to_test(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{side}/{name}/1.mp4" for side in ("train", "val") for name in WALKS))
    assert "split1 has no test videos: `resact evaluate --membership val` tests on its val videos" in notes_of(tmp_path)


def test_what_may_be_meant_otherwise_is_said(tmp_path: Path) -> None:
    def numbered(*classes: str) -> Iterable[str]:
        return (f"{name}/test{session}/{i}.mp4" for name in classes for session in (1, 2) for i in range(2))

    vehicles = touch(tmp_path / "vehicles", *(f"{name}/{i}.mp4" for name in ("bus", "train") for i in range(3)))
    assert "folders named like a side are used as classes: train" in notes_of(vehicles)
    sessions = touch(tmp_path / "sessions", *numbered("Run", "Walk"))
    assert "are used as groups: Run/test1, Run/test2, Walk/test1 and 1 more" in notes_of(sessions)
    assert set(groups_of(sessions).values()) == {"test1", "test2"}
    files = touch(tmp_path / "files", "Walk/train_1.mp4", "Walk/test-2.mp4", "Walk/other.mp4")
    assert "names of 2 files begin with a side (Walk/test-2.mp4, Walk/train_1.mp4), which has no" in notes_of(files)
    listed = touch(two_classes(tmp_path / "listed"), "trainlist01.txt", "val.csv", "README.md", "splits/a.txt")
    assert "not read: trainlist01.txt, val.csv, splits; if that says which videos are for test, give it" in notes_of(
        listed
    )
    assert "is named like a side; its videos are still split" in notes_of(two_classes(tmp_path / "val_256"))
    plain = notes_of(two_classes(tmp_path / "plain"))
    assert "side" not in plain
    assert "not read" not in plain


def test_groups_that_look_alike_are_said(tmp_path: Path) -> None:
    touch(tmp_path, "Walk/Anna/1.mp4", "Run/anna/1.mp4", "Run/bert/1.mp4")
    words = "groups with similar names stay separate, and may be on different sides: 1 ('Anna', 'anna')"
    assert words in notes_of(tmp_path)
