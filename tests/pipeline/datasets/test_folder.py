"""A user's own tree of videos: what is found in it, what is left out and said, and how it may grow."""

import os
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.pipeline.conftest import FFMPEG, Tree, last_json, resact, tree_of

from resact.cache.codecs import build_codec
from resact.cache.layout import VideoRecord, array_name, video_id_of
from resact.cache.settings import DecodeSettings, StoreSettings
from resact.cache.store import ClipStore, open_store
from resact.cache.summary import summarise
from resact.cache.verify import verify_store
from resact.errors import DamagedError, Interrupted, SettingsError, SourceError, UsageError
from resact.pipeline.datasets.folder import load_folder
from resact.pipeline.datasets.limit import limited
from resact.pipeline.datasets.registry import DATASETS, load_dataset
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.executor import open_executor
from resact.pipeline.job.prep import prep
from resact.pipeline.job.progress import PrepProgress
from resact.pipeline.job.task import PrepJob

STRANGE = [
    "a b.mp4", "-dash.mp4", "q'uo\"te.mp4", "new\nline.mp4", "caf\u00e9.mp4", "cafe\u0301.mp4", "[b]*?.mp4",
    "100%_%d.mp4", "bad\udcff.mp4", "no_ending", "\u52a8" * 60 + ".mp4", "deep/-er/d.mp4", "back\\slash.mp4",
]  # fmt: skip


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def two_classes(root: Path, number: int = 4) -> Path:
    return touch(root, *(f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(number)))


def sides_of(root: Path, **options: Any) -> dict[str, str]:
    return {video.video_id: video.splits["split1"] for video in load_folder(root, **options).videos}


def groups_of(root: Path, **options: Any) -> dict[str, str]:
    return {video.video_id: video.group for video in load_folder(root, **options).videos}


# What is found ----------------------------------------------------------------------------------------------


def test_classes_are_the_folders_in_order_and_ids_the_paths_below_the_root(tmp_path: Path) -> None:
    touch(tmp_path / "mine", "Walk/b.mp4", "Walk/a.webm", "Run/day 1/x/c.mov", "jump/d.MKV")
    dataset = load_folder(tmp_path / "mine")
    assert dataset.settings.classes == ("Run", "Walk", "jump")
    assert [(v.video_id, v.label, v.class_name, v.path) for v in dataset.videos] == [
        ("Run/day 1/x/c.mov", 0, "Run", tmp_path / "mine" / "Run/day 1/x/c.mov"),
        ("Walk/a.webm", 1, "Walk", tmp_path / "mine" / "Walk/a.webm"),
        ("Walk/b.mp4", 1, "Walk", tmp_path / "mine" / "Walk/b.mp4"),
        ("jump/d.MKV", 2, "jump", tmp_path / "mine" / "jump/d.MKV"),
    ]
    assert all(v.name == v.video_id for v in dataset.videos)
    assert (dataset.settings.name, dataset.settings.splits) == ("mine", ("split1",))
    assert load_folder(tmp_path / "mine", classes=["jump", "Run"]).settings.classes == ("Run", "jump")


def test_strange_names_have_ids_that_a_store_can_have(tmp_path: Path) -> None:
    touch(tmp_path / "v", *(f"Walk/{name}" for name in STRANGE))
    videos = load_folder(tmp_path / "v").videos
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
    dataset = load_folder(touch(root, "Walk/known.mp4"))
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
    dataset = load_folder(tmp_path)
    assert [v.name for v in dataset.videos] == [f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(4)]
    assert dataset.notes[:4] == (
        "left out: files outside the class folders: 2 (README.md, loose.mp4)",
        "left out: files that are not videos: 4 (Empty/notes.txt, Walk/0.JPG, Walk/labels.csv, ...)",
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
    dataset = load_folder(root)
    assert [v.name for v in dataset.videos if v.class_name == "Walk"] == [
        "Walk/0.mp4", "Walk/1.mp4", "Walk/2.mp4", "Walk/3.mp4", "Walk/folder/e.mp4", "Walk/gone.mp4", "Walk/itself",
        "Walk/link.mp4",
    ]  # fmt: skip
    assert "left out: folders reached by a second link: 3 (Walk/loop, Walk/second, Walk/sub/up)" in dataset.notes


def test_folders_that_are_no_such_tree_are_refused(tmp_path: Path) -> None:
    for name, files, words in (
        ("empty", [], "has no folder with videos in it, expected ROOT/<class>/<video>"),
        ("flat", ["a.mp4"], "has no folder with videos in it"),
        (
            "twins",
            ["caf\u00e9/a.mp4", "cafe\u0301/a.mp4"],
            r"the folders 'cafe\\u0301' and 'caf\\xe9', which look alike",
        ),
        ("cases", ["Walk/a.mp4", "walk/b.mp4"], "the folders 'Walk' and 'walk', which look alike"),
        ("bytes", ["Walk\udcff/a.mp4"], r"'Walk\\udcff', whose name is not UTF-8"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(SourceError, match=words):
            load_folder(touch(tmp_path / name, *files))
    with pytest.raises(SourceError, match="nowhere' cannot be searched for videos: No such file"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="needs --root DIR"):
        load_folder(None)


def test_names_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_classes(tmp_path / "UCF101")
    with pytest.raises(UsageError, match="a folder named 'UCF101', which is the name of another data set"):
        load_folder(tmp_path / "UCF101")
    assert load_folder(tmp_path / "UCF101", name="my ucf").settings.name == "my ucf"
    for name in ("", "a/b", ".hidden", "line\n", "sample", "bad\udcff"):
        with pytest.raises(UsageError, match="got --name"):
            load_folder(tmp_path / "UCF101", name=name)
    (tmp_path / "link").symlink_to("UCF101")
    monkeypatch.chdir(tmp_path / "UCF101" / "Run")
    assert load_folder(Path("../../link")).settings.name == "link"


# Groups and sides -------------------------------------------------------------------------------------------


def test_groups_are_in_the_name_or_else_the_sub_folder_or_else_the_video(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "Walk/v_Walk_g07_c01.avi",
        "Walk/anna/1.mp4",
        "Walk/anna/day/2.mp4",
        "Run/anna/v_g1_c2.mp4",
        "Run/x.mp4",
    )
    assert groups_of(tmp_path) == {
        "Run/anna/v_g1_c2.mp4": "v_g1",
        "Run/x.mp4": "Run/x.mp4",
        "Walk/anna/1.mp4": "anna",
        "Walk/anna/day/2.mp4": "anna",
        "Walk/v_Walk_g07_c01.avi": "v_Walk_g07",
    }


def test_a_pattern_names_the_groups(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/p{n:02}_{c}_{i}.mp4" for c in ("Run", "Walk") for n in range(8) for i in range(2)))
    touch(tmp_path, "Run/other.mp4")
    dataset = load_folder(tmp_path, group_pattern=r"/(p\d+)_")
    assert {v.group for v in dataset.videos} == {f"p{n:02}" for n in range(8)} | {"Run/other.mp4"}
    assert "1 videos do not match --group-pattern: each is its own group (Run/other.mp4)" in dataset.notes
    sides: dict[str, set[str]] = {}
    for video in dataset.videos:
        sides.setdefault(video.group, set()).add(video.splits["split1"])
    assert {len(both) for both in sides.values()} == {1}, "nobody is seen in training and in test"
    for pattern, words in (
        ("p(", "not a regular expression"),
        ("p.", "one pair"),
        ("(p)(.)", "one pair"),
        ("(zz)", "no path"),
    ):
        with pytest.raises(UsageError, match=words):
            load_folder(tmp_path, group_pattern=pattern)


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
            load_folder(tmp_path, test_share=share)


def test_a_class_of_one_group_is_for_training_and_said(tmp_path: Path) -> None:
    touch(two_classes(tmp_path), "Jump/all/1.mp4", "Jump/all/2.mp4")
    dataset = load_folder(tmp_path)
    assert {v.splits["split1"] for v in dataset.videos if v.class_name == "Jump"} == {"train"}
    assert any("split1 has no videos on both sides of 1 classes (Jump)" in note for note in dataset.notes)


def test_flips_are_safe_unless_said_otherwise(tmp_path: Path) -> None:
    two_classes(tmp_path)
    assumed, safe, unsafe = (load_folder(tmp_path, flip_safe=flip) for flip in (None, True, False))
    assert [d.settings.flip_safe for d in (assumed, safe, unsafe)] == [True, True, False]
    assert [any("--not-flip-safe" in note for note in d.notes) for d in (assumed, safe, unsafe)] == [True, False, False]


def test_a_csv_says_who_is_where(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "v", 3)
    csv = root / "splits.csv"
    csv.write_text("video,membership,split,group\nRun/0.mp4,train,a,x\nRun/1.mp4,test,a,x\nWalk/0.mp4,test,b,\n")
    dataset = load_folder(root, splits=csv)
    assert {v.video_id: (v.splits, v.group) for v in dataset.videos} == {
        "Run/0.mp4": ({"a": "train"}, "x"),
        "Run/1.mp4": ({"a": "test"}, "x"),
        "Walk/0.mp4": ({"b": "test"}, "Walk/0.mp4"),
    }
    assert (dataset.settings.splits, dataset.settings.division, dataset.division) == (("a", "b"), None, None)
    assert dataset.notes[0].startswith(f"left out: videos that {csv} does not name: 3 (Run/2.mp4, Walk/1.mp4")
    assert "a has videos of 1 groups on more than one side (x)" in dataset.notes
    with pytest.raises(UsageError, match="got --splits with --test-share or --split-seed"):
        load_folder(root, splits=csv, split_seed=0)


def test_a_csv_that_names_videos_that_are_not_there(tmp_path: Path) -> None:
    root, csv = two_classes(tmp_path / "v"), tmp_path / "splits.csv"
    csv.write_text("video,membership\nRun/0.mp4,train\n" + "".join(f"Walk/g{n}.mp4,test\n" for n in range(5)))
    words = (
        r"names 5 videos that are not below .*v \(Walk/g0.mp4, Walk/g1.mp4, Walk/g2.mp4, \.\.\.\).* such as 'Run/0.mp4'"
    )
    with pytest.raises(SourceError, match=words):
        load_folder(root, splits=csv)
    assert len(load_folder(root, splits=csv, allow_partial=True).missing) == 5
    assert [v.video_id for v in load_folder(root, splits=csv, classes=["Run"]).videos] == ["Run/0.mp4"]
    csv.write_text("video,membership\nWalk/gone.mp4,train\n")
    with pytest.raises(SourceError, match="names 1 videos that are not below"):
        load_folder(root, splits=csv, allow_partial=True)


def test_classes_are_those_that_the_csv_has_videos_of(tmp_path: Path) -> None:
    root, csv = touch(two_classes(tmp_path / "v"), "Junk/x.mp4"), tmp_path / "splits.csv"
    csv.write_text("video,membership\nRun/0.mp4,train\nWalk/0.mp4,test\n")
    dataset = load_folder(root, splits=csv)
    assert dataset.settings.classes == ("Run", "Walk")
    assert f"left out: videos that {csv} does not name: 7 (Junk/x.mp4, Run/1.mp4, Run/2.mp4, ...)" in dataset.notes
    with pytest.raises(UsageError, match="got class 'Junk', expected one of the 2 classes"):
        load_folder(root, splits=csv, classes=["Junk"])


# The registry -----------------------------------------------------------------------------------------------


def test_options_of_one_data_set_are_refused_by_the_others() -> None:
    for name in set(DATASETS) - {"folder"}:
        for option in (
            "name",
            "list",
            "classes_file",
            "splits",
            "test_share",
            "split_seed",
            "group_pattern",
            "flip_safe",
        ):
            with pytest.raises(
                UsageError, match=f"got --{option.replace('_', '-')}, which belongs to folder, not to {name}"
            ):
                load_dataset(name, options={option: 1})
    with pytest.raises(UsageError, match="got data set 'hmdb', expected one of ucf101, hmdb51, sample, folder"):
        load_dataset("hmdb", options={"name": "x"})


def test_wrong_options_are_told_before_the_sample_is_made(tmp_path: Path) -> None:
    run = resact("prep", "sample", "--root", tmp_path / "s", "--not-flip-safe", "--workers", 0)
    assert run.returncode == 2
    assert "which belongs to folder, not to sample" in run.stderr
    assert not (tmp_path / "s").exists()


# Into a store -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of a second."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.mp4"
    command = [FFMPEG, "-v", "error", "-f", "lavfi", "-i", "testsrc=s=64x48:r=15:d=1", path]
    subprocess.run(command, check=True)
    return path.read_bytes()


def fill(root: Path, tiny: bytes, *names: str) -> Path:
    for name in names:
        touch(root, name)
        (root / name).write_bytes(tiny)
    return root


def make(root: Path, store: Path, *, limit: int | None = None, **options: Any) -> tuple[ClipStore, str]:
    """Prep in this process; what it makes, and what it prints."""
    shared = {name: options.pop(name) for name in ("classes", "allow_partial") if name in options}
    dataset = limited(load_dataset("folder", root=root, options=options, **shared), limit)
    decode = DecodeSettings(fps="15", short_side=48, max_seconds=None, ffmpeg=find_ffmpeg()[1])
    settings = StoreSettings(
        dataset=dataset.settings, decode=decode, codec="jpeg", library=build_codec("jpeg").library()
    )
    job = PrepJob(store=store, settings=settings, ffmpeg=None, timeout_seconds=600)
    text = StringIO()
    console = Console(file=text, width=300)
    prep(dataset, job, open_executor=lambda: open_executor(workers=0, scheduler=None), console=console)
    return open_store(store), text.getvalue()


def stored_sides(store: ClipStore) -> dict[str, int]:
    return dict(zip(store.index.video_id, store.index.splits["split1"].tolist(), strict=True))


def test_from_a_folder_of_strange_names_to_a_verified_store(tmp_path: Path, tiny: bytes) -> None:
    root = fill(tmp_path / "my [videos]", tiny, *(f"Walk/{name}" for name in STRANGE), "Run/1.mp4", "Run/2.mp4")
    (root / "Run" / "broken.mp4").write_text("no video")
    os.mkfifo(root / "Run" / "pipe.mp4")
    (root / "Run" / "link.mp4").symlink_to("1.mp4")
    run = resact(
        "prep",
        "folder",
        "--root",
        root,
        "--workers",
        0,
        "--short-side",
        48,
        "--json",
        env={**os.environ, "RESACT_DATA": str(tmp_path)},
    )
    assert run.returncode == 3, run.stderr
    summary = last_json(run)
    assert (summary["videos"], summary["written"], summary["failed"]) == (len(STRANGE) + 4, len(STRANGE) + 2, 2)
    assert "left out: other names of files that are already used: 1 (Run/link.mp4)" in run.stderr
    store = open_store(tmp_path / "my [videos].zarr")
    problems = {v: p for v, p in zip(store.index.video_id, store.index.problem, strict=True) if p}
    assert "Invalid data" in problems.pop("Run/broken.mp4")
    assert problems == {"Run/pipe.mp4": "not a regular file"}
    plain = zarr.open_group(str(store.files), mode="r")
    for video_id in store.index.video_id:
        if video_id not in ("Run/broken.mp4", "Run/pipe.mp4"):
            assert (store.read(video_id, 0, 15) == plain[array_name(video_id)][0:15]).all()  # type: ignore[index]
    assert verify_store(tmp_path / "my [videos].zarr", threads=1) == (len(STRANGE) + 4, [])
    info = resact("info", tmp_path / "my [videos].zarr")
    assert info.returncode == 0, info.stderr
    assert "my [videos]: not the whole of my [videos]" in info.stdout


def test_an_undisturbed_store_is_the_whole_of_what_prep_was_given(tmp_path: Path, tiny: bytes) -> None:
    root = fill(tmp_path / "v", tiny, "Walk/1.mp4", "Walk/2.mp4", "Run/1.mp4", "Run/2.mp4")
    store, printed = make(root, tmp_path / "s.zarr")
    assert "divided video by video: split1: 2 train, 2 test" in printed
    words = "no groups were found: each of the 4 videos is a group of its own, so clips of one recording may be in both"
    assert f"note: {words}" in printed
    assert summarise(store)["notes"][0].startswith(words)
    assert (summarise(store)["groups"], summarise(store)["ungrouped"]) == (4, 4)
    assert (store.partial, store.settings.dataset.division) == (None, "test share 0.3, seed 0")
    assert summarise(store)["splits"] == {"split1": {"train": 2, "test": 2}}
    shown = resact("info", tmp_path / "s.zarr").stdout
    assert "v, all that prep was given" in shown
    assert "no groups were found: each of the 4 videos" in " ".join(shown.split())
    assert "nothing to do, 4 are already stored" in make(root, tmp_path / "s.zarr")[1]


def test_a_prep_in_two_goes_gives_the_bytes_of_one(tmp_path: Path, tiny: bytes) -> None:
    root = fill(tmp_path / "v", tiny, *(f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(6)))
    make(root, tmp_path / "one.zarr")
    make(root, tmp_path / "two.zarr", limit=5)
    make(root, tmp_path / "two.zarr")
    trees: list[Tree] = [tree_of(tmp_path / name) for name in ("one.zarr", "two.zarr")]
    assert trees[0] == trees[1]


def test_a_limit_takes_both_sides_of_each_class_and_the_store_says_what_it_lacks(tmp_path: Path, tiny: bytes) -> None:
    root = fill(tmp_path / "v", tiny, *(f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(6)))
    store, printed = make(root, tmp_path / "s.zarr", limit=4)
    assert store.partial == summarise(store)["partial"] == "not the whole of v: 4 of 12 videos, 2 of 2 classes"
    assert "note: not the whole of v: 4 of 12 videos" in printed
    assert sorted((v.partition("/")[0], side) for v, side in stored_sides(store).items()) == [
        ("Run", 1), ("Run", 2), ("Walk", 1), ("Walk", 2),
    ]  # fmt: skip
    assert verify_store(tmp_path / "s.zarr", threads=1) == (4, [])
    assert make(root, tmp_path / "s.zarr", limit=7)[0].partial == "not the whole of v: 7 of 12 videos, 2 of 2 classes"
    whole, printed = make(root, tmp_path / "s.zarr")
    assert (whole.partial, "note: not the whole" in printed) == (None, False)
    sides = stored_sides(whole)
    assert stored_sides(store).items() <= sides.items()
    assert sides == {v.video_id: 1 + (v.splits["split1"] == "test") for v in load_folder(root).videos}
    assert make(root, tmp_path / "s.zarr", limit=4)[0].partial is None, "it lacks nothing for being asked for less"
    fill(root, tiny, "Run/7.mp4", "Run/8.mp4")
    assert make(root, tmp_path / "s.zarr", limit=4)[0].partial == "not the whole of v: 12 of 14 videos, 2 of 2 classes"
    (root / "Run" / "7.mp4").unlink()
    (root / "Run" / "8.mp4").unlink()
    assert make(root, tmp_path / "s.zarr")[0].partial is None


def test_other_parts_of_a_folder_are_said_too(tmp_path: Path, tiny: bytes) -> None:
    root, csv = fill(tmp_path / "v", tiny, "Jump/1.mp4", "Run/1.mp4", "Run/2.mp4", "Walk/1.mp4"), tmp_path / "s.csv"
    decided = make(root, tmp_path / "classes.zarr", classes=["Run", "Walk"])[0]
    assert decided.partial == "not the whole of v: 3 of 4 videos, 2 of 3 classes"
    csv.write_text("video,membership\nRun/1.mp4,train\nRun/2.mp4,test\nRun/3.mp4,test\n")
    lists = make(root, tmp_path / "missing.zarr", splits=csv, allow_partial=True)[0]
    assert lists.partial == "not the whole of v: 2 of 3 videos, 1 of 1 classes"
    fill(root, tiny, "Run/3.mp4")
    assert make(root, tmp_path / "missing.zarr", splits=csv)[0].partial is None


def test_a_stopped_prep_of_a_folder_leaves_a_store_that_says_so(
    tmp_path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fill(tmp_path / "v", tiny, *(f"{name}/{i}.mp4" for name in ("Run", "Walk") for i in range(3)))
    add = PrepProgress.add

    def stop(self: PrepProgress, record: VideoRecord) -> None:
        add(self, record)
        if self.videos == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PrepProgress, "add", stop)
        with pytest.raises(Interrupted):
            make(root, tmp_path / "s.zarr")
    assert open_store(tmp_path / "s.zarr").partial == "not the whole of v: 2 of 6 videos, 2 of 2 classes"
    store, _ = make(root, tmp_path / "s.zarr")
    assert store.partial is None
    make(root, tmp_path / "undisturbed.zarr")
    assert tree_of(tmp_path / "s.zarr") == tree_of(tmp_path / "undisturbed.zarr")


def test_a_damaged_note_of_what_is_lacking_is_found_and_written_again(tmp_path: Path, tiny: bytes) -> None:
    root, store = fill(tmp_path / "v", tiny, "Run/1.mp4", "Run/2.mp4", "Run/3.mp4"), tmp_path / "s.zarr"
    make(root, store, limit=2)
    note = store / "index" / "whole.json"
    note.write_bytes(note.read_bytes().replace(b'"videos": 3', b'"videos": 2'))
    with pytest.raises(DamagedError, match=r"whole.json has changed since it was written: run the same prep again"):
        open_store(store)
    assert "whole.json has changed since it was written" in verify_store(store, threads=1)[1][0].problem
    assert make(root, store, limit=2)[0].partial == "not the whole of v: 2 of 3 videos, 1 of 1 classes"


def test_videos_added_later_change_no_side_and_keep_the_share(tmp_path: Path, tiny: bytes) -> None:
    root = fill(tmp_path / "v", tiny, "Run/1.mp4", "Walk/1.mp4", "Walk/2.mp4", "Walk/anna/1.mp4")
    sides = stored_sides(make(root, tmp_path / "s.zarr")[0])
    assert sides["Run/1.mp4"] == 1, "the only one is for training"
    for number in range(2, 8):
        fill(root, tiny, f"Run/{number}.mp4", f"Walk/{number + 1}.mp4", f"Walk/anna/{number}.mp4")
        store, printed = make(root, tmp_path / "s.zarr")
        assert f"{len(sides)} are already stored" in printed
        now = stored_sides(store)
        assert sides.items() <= now.items()
        assert len(now) == len(sides) + 3
        assert len({side for video, side in now.items() if "anna" in video}) == 1
        assert {side for video, side in now.items() if video.startswith("Run")} == {1, 2}
        sides = now
    alone = {v.video_id: v.splits["split1"] for v in load_folder(root).videos}
    assert len(alone) == len(sides)


def test_what_would_change_a_store_is_refused(tmp_path: Path, tiny: bytes) -> None:
    root, store = (
        fill(tmp_path / "v", tiny, "Run/1_a.mp4", "Run/2_b.mp4", "Walk/1_a.mp4", "Walk/2_b.mp4"),
        tmp_path / "s.zarr",
    )
    csv = tmp_path / "splits.csv"
    rows = [
        f"{name}/{file},{side}\n"
        for name in ("Run", "Walk")
        for file, side in (("1_a.mp4", "train"), ("2_b.mp4", "test"))
    ]
    csv.write_text("video,membership\n" + "".join(rows))
    make(root, store)
    before = tree_of(store)
    for options, words in (
        (
            {"split_seed": 1},
            "division: store 'test share 0.3, seed 0', asked for 'test share 0.3, seed 1'",
        ),
        ({"test_share": 0.4}, "division: store .* asked for 'test share 0.4, seed 0'"),
        ({"splits": csv}, "division: store .* asked for None"),
        ({"flip_safe": False}, "--flip-safe: store True, asked for False"),
        ({"name": "w"}, "name of the data set: store 'v', asked for 'w'"),
        (
            {"group_pattern": "_([ab])"},
            r"holds 4 of these videos in another group .*'Run/1_a.mp4' \(store: group 'Run/1_a",
        ),
    ):
        with pytest.raises(SettingsError, match=words):
            make(root, store, **options)
    fill(root, tiny, "Jump/1.mp4")
    with pytest.raises(SettingsError, match=r"classes: store \('Run', 'Walk'\), asked for \('Jump', 'Run', 'Walk'\)"):
        make(root, store)
    assert tree_of(store) == before


def test_ids_that_differ_only_in_case_are_refused(tmp_path: Path, tiny: bytes) -> None:
    root = fill(tmp_path / "v", tiny, "Walk/a.mp4", "Walk/A.mp4")
    with pytest.raises(UsageError, match=r"share the id 'Walk/a.mp4': Walk/A.mp4 and Walk/a.mp4: rename one"):
        make(root, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_a_csv_may_grow_but_not_change(tmp_path: Path, tiny: bytes) -> None:
    root, csv = fill(tmp_path / "v", tiny, "Run/1.mp4", "Run/2.mp4", "Run/3.mp4"), tmp_path / "splits.csv"
    csv.write_text("video,membership\nRun/1.mp4,train\nRun/2.mp4,test\n")
    make(root, tmp_path / "s.zarr", splits=csv)
    csv.write_text("video,membership\nRun/1.mp4,train\nRun/2.mp4,test\nRun/3.mp4,test\n")
    store, _ = make(root, tmp_path / "s.zarr", splits=csv)
    assert stored_sides(store) == {"Run/1.mp4": 1, "Run/2.mp4": 2, "Run/3.mp4": 2}
    csv.write_text("video,membership\nRun/1.mp4,train\nRun/2.mp4,train\nRun/3.mp4,test\n")
    words = r"holds 1 of these videos .*'Run/2.mp4' .*test of split1; asked for: group 'Run/2.mp4', train of split1"
    with pytest.raises(SettingsError, match=words):
        make(root, tmp_path / "s.zarr", splits=csv)
    assert stored_sides(open_store(tmp_path / "s.zarr")) == stored_sides(store)
