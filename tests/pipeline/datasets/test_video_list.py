"""The user's lists, for `--list` and `--splits`: their forms, where videos lie, and what is wrong, by line."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipeline.datasets.trees import touch

from resact.errors import SourceError, UsageError
from resact.pipeline.datasets.dataset import Dataset
from resact.pipeline.datasets.folder import FOLDER
from resact.pipeline.datasets.list_file import read_class_names
from resact.pipeline.datasets.video_list import read_list, read_split_csv

FILES = ("a.mp4", "deep/er/b.webm", "deep/c d.mp4", "e.mp4", "x/f.mp4", "left/out.mp4")
PLAIN = """video,label,membership
a.mp4,Walk,train
deep/er/b.webm,Run,train
deep/c d.mp4,Walk,test
e.mp4,Run,val
"""


def load(root: Path, text: str, *, name: str = "list.csv", files: tuple[str, ...] = FILES, **options: Any) -> Dataset:
    """The data set of a list in the folder of its videos."""
    touch(root, *files)
    (root / name).write_text(text, encoding="utf-8")
    return FOLDER.load(root, list=root / name, **options)


def refused(root: Path, text: str, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        load(root, text, **options)
    return str(caught.value)


def summary(dataset: Dataset) -> dict[str, tuple[str, dict[str, str], str]]:
    return {v.video_id: (v.class_name, v.splits, v.group) for v in dataset.videos}


EXPECTED = {
    "a.mp4": ("Walk", {"split1": "train"}, "a.mp4"),
    "deep/er/b.webm": ("Run", {"split1": "train"}, "deep/er/b.webm"),
    "deep/c d.mp4": ("Walk", {"split1": "test"}, "deep/c d.mp4"),
    "e.mp4": ("Run", {"split1": "val"}, "e.mp4"),
}


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        "\ufeff" + PLAIN,
        PLAIN.replace(",", "\t"),
        "Membership,Label,Video\n" + "".join(",".join(reversed(x.split(","))) + "\n" for x in PLAIN.splitlines()[1:]),
        "".join(
            json.dumps(dict(zip(("video", "label", "membership"), line.split(","), strict=True))) + "\n"
            for line in PLAIN.splitlines()[1:]
        ),
    ],
    ids=["csv", "crlf", "bom", "tsv", "columns in another order", "json lines"],
)
def test_each_form_of_a_list_says_the_same(tmp_path: Path, text: str) -> None:
    dataset = load(tmp_path / "v", text)
    assert summary(dataset) == EXPECTED
    assert [(v.label, v.name, v.path) for v in dataset.videos if v.class_name == "Walk"] == [
        (1, name, tmp_path / "v" / name) for name in ("a.mp4", "deep/c d.mp4")
    ]
    assert (dataset.settings.name, dataset.settings.classes, dataset.settings.splits) == (
        "v",
        ("Run", "Walk"),
        ("split1",),
    )
    assert (dataset.division, dataset.settings.videos, dataset.missing) == (None, None, ())
    left = "left out: videos that {} does not name: 2 (left/out.mp4, x/f.mp4)"
    assert left.format(tmp_path / "v" / "list.csv") in dataset.notes
    assert not any("list.csv)" in note for note in dataset.notes), "the list itself is nothing that is left out"


@pytest.mark.parametrize("form", ["{} {}", "{}\t{}", "{},{}", '"{}",{}'])
def test_the_two_columns_of_toolkits_with_a_classes_file_are_drawn_by_group(tmp_path: Path, form: str) -> None:
    rows = [(f"deep/{i} of {n}.mp4", n) for n in (2, 10) for i in range(4)]
    text = "".join(form.format(*row) + "\n" for row in rows)
    names = tmp_path / "classes.txt"
    names.write_text("".join(f"class {number}\n" for number in range(12)))
    files = tuple(name for name, _ in rows)
    dataset = load(tmp_path / "v", text, files=files, classes_file=names, split_seed=3)
    assert dataset.settings.classes == ("class 2", "class 10"), "in the order of the file"
    assert {v.name: v.class_name for v in dataset.videos} == {name: f"class {n}" for name, n in rows}
    assert dataset.settings.division == "test share 0.3, seed 3"
    assert {v.splits["split1"] for v in dataset.videos} == {"train", "test"}
    assert any(note.startswith(f"classes of {names} without a video: 10 (class 0, ") for note in dataset.notes)
    bare = load(tmp_path / "v", text, files=files)
    assert bare.settings.classes == ("2", "10"), "numbers in their order"
    assert any("which are used as class names: give names with --classes-file" in note for note in bare.notes)


@pytest.mark.parametrize(
    "text",
    ["a b\nc\n", "0 a b\n1 c\n", "0,a b\n1,c\n", "a b,0\nc,1\n", '["a b", "c"]', '[["a", "b"], ["c"]]',
     '{"a b": "0", "c": 1}', '{"1": "c", "0": "a b"}', "001\ta b\n000\tc\n"],
)  # fmt: skip
def test_files_of_class_names(tmp_path: Path, text: str) -> None:
    path = tmp_path / "names"
    path.write_text(text)
    expected = {"0": "a b", "1": "c"} if "001" not in text else {"1": "a b", "0": "c"}
    assert read_class_names(path) == expected


def test_files_of_class_names_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "names"
    for text, words in (
        ("", "names no class"), ("a\na\n", "has the class 'a' twice"), ("0 a\n0 b\n", "has the number '0' twice"),
        ("{", "is not a JSON file of class names"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(SourceError, match=words):
            read_class_names(path)
    path.write_text("Walk\n")
    assert "line 3: has label 'Run', which is not in" in refused(tmp_path / "v", PLAIN, classes_file=path)


def test_splits_groups_and_videos_in_no_split(tmp_path: Path) -> None:
    text = """video,label,membership,split,group,source
a.mp4,Walk,train,one,anna,x
a.mp4,Walk,test,two,,x
deep/er/b.webm,Run,train,one,bert,x
deep/er/b.webm,Run,train,two,bert,x
e.mp4,Run,none,one,,x
deep/c d.mp4,Walk,train,two,anna,x
"""
    dataset = load(tmp_path, text)
    assert summary(dataset) == {
        "a.mp4": ("Walk", {"one": "train", "two": "test"}, "anna"),
        "deep/er/b.webm": ("Run", {"one": "train", "two": "train"}, "bert"),
        "e.mp4": ("Run", {}, "e.mp4"),
        "deep/c d.mp4": ("Walk", {"two": "train"}, "anna"),
    }
    assert dataset.settings.splits == ("one", "two")
    assert "stored, but in no split: 1 videos (e.mp4)" in dataset.notes
    assert f"columns of {tmp_path / 'list.csv'} that prep ignores: source" in dataset.notes
    assert "two has videos of 1 groups on more than one side (anna)" in dataset.notes


def test_videos_are_found_by_their_file_names_and_absolute_paths_too(tmp_path: Path) -> None:
    text = f"video,label\n{tmp_path}/a.mp4,Walk\nb,Run\nc d.mp4,Walk\n.\\x\\f.mp4,Run\n"
    dataset = load(tmp_path, text)
    assert {v.name for v in dataset.videos} == {"a.mp4", "deep/er/b.webm", "deep/c d.mp4", "x/f.mp4"}
    assert any("that are found by their file name alone: 2 (b, c d.mp4)" in note for note in dataset.notes)
    words = refused(tmp_path, "video,label\nf,Run\n", files=("y/f.mp4",))
    assert "line 2: 'f' may mean 'x/f.mp4' or 'y/f.mp4'" in words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: got '', expected a header with the columns video and label"),
        ("file,class\na.mp4,Walk\n", "line 1: got 'file,class', expected a header"),
        ("video,label,label\na.mp4,Walk,Run\n", "line 1: got 'video,label,label', expected"),
        ('[{"video": "a.mp4"}]', "is one JSON array, expected JSON lines: write them with `jq -c '.[]' list.csv`"),
        ("video,label,split\na.mp4,x,one\n", "line 2: got split 'one' without a membership"),
        (
            '{"video": "a.mp4", "label": "x", "membership": "train"}\n{"video": "e.mp4", "label": "x"}\n',
            "line 2: has no membership, and others have one",
        ),
        (PLAIN + "e.mp4\n", "line 6: got 1 fields, expected 3"),
        ('video,label\n"a.mp4,Walk\n', "line 2: unexpected end of data"),
        ("a.mp4 0\ne.mp4 Run\n", "line 2: got 'e.mp4 Run', expected a path and a whole number"),
        ('{"video": "a.mp4", "label": "x"}\n{"video": 1}\n', "line 2: has no video and label"),
        ('{"video": "a.mp4", "label": "x"}\n{"video": \n', "line 2: is no JSON"),
        ('{"video": "a.mp4", "label": ["x"]}\n', "line 1: has label [\"x\"], expected a text or a number"),
        (PLAIN.replace("e.mp4,Run", "e.mp4,"), "line 5: has no label"),
        (PLAIN.replace(",val", ",vel"), "line 5: got membership 'vel', expected train, val, test or none"),
        ("video,label,split\na.mp4,x,train\n", "line 2: got split 'train', which is a side: call that column membe"),
        (PLAIN + "gone.mp4,Run,train\n../a.mp4,Run,test\n", "line 6: 'gone.mp4' is not below"),
        (PLAIN + "a.mp4,Run,val\n", "line 6: 'a.mp4' is of class 'Run', and of 'Walk' in line 2: choose one"),
        (PLAIN + "./a.mp4,Walk,test\n", "line 6: 'a.mp4' is in test of split1, and in train in line 2"),
        (PLAIN + "a.mp4,Walk,train\n", "line 6: 'a.mp4' is also in line 2: keep one of the lines"),
        (PLAIN + "x/f.mp4,walk,train\n", "line 6: has class 'walk', which looks like 'Walk' of line 2"),
        (PLAIN.replace("b.webm,Run,train", "b.webm,Run,test"), "line 3: class 'Run' has no training videos in spl"),
        (PLAIN + "x/f.mp4,Sit,none\n", "line 6: class 'Sit' has no videos in any split"),
        ("video,label,group,split,membership\na.mp4,W,x,1,train\na.mp4,W,y,2,train\n", "line 3: 'a.mp4' is of group"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    said = refused(tmp_path, text)
    assert words in said
    assert str(tmp_path / "list.csv") in said


def test_all_wrong_lines_are_named_up_to_a_few(tmp_path: Path) -> None:
    said = refused(tmp_path, PLAIN + "".join(f"gone{number}.mp4,Run,train\n" for number in range(9)))
    assert [f"line {line}:" in said for line in range(6, 15)] == [True] * 5 + [False] * 4
    assert "; and 4 more lines: correct the list, or use what exists with --allow-partial" in said


def test_one_file_under_two_names_is_named(tmp_path: Path) -> None:
    touch(tmp_path, *FILES)
    (tmp_path / "again.mp4").hardlink_to(tmp_path / "a.mp4")
    said = refused(tmp_path, PLAIN + "again.mp4,Walk,train\n")
    assert "line 6: 'again.mp4' and 'a.mp4' of line 2 are one file: write one of them" in said


def test_options_choose_a_part_and_what_is_missing_is_kept_in_mind(tmp_path: Path) -> None:
    text = PLAIN + "gone.mp4,Run,train\n"
    dataset = load(tmp_path, text, allow_partial=True)
    assert (dataset.missing, len(dataset.videos)) == (("gone.mp4",), 4)
    walks = load(tmp_path, text, allow_partial=True, classes=["Walk"])
    assert (walks.settings.classes, walks.missing, walks.other_classes) == (("Walk",), (), 1)
    assert set(walks.others) == {"deep/er/b.webm", "e.mp4", "gone.mp4"}
    assert {v.group for v in load(tmp_path, PLAIN, group_pattern=r"(.)\.").videos} == {"a", "b", "d", "e"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"splits": Path("s.csv")}, "got --list and --splits, expected one"),
        ({"test_share": 0.2}, "got --test-share, but .* has a column membership"),
        ({"split_seed": 1}, "got --split-seed, but"),
    ],
)
def test_options_that_contradict_a_list(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(tmp_path, PLAIN, **options)
    with pytest.raises(UsageError, match="got --classes-file without --list"):
        FOLDER.load(tmp_path, classes_file=tmp_path / "x")


def test_times_are_exact_and_written_in_one_way(tmp_path: Path) -> None:
    path = tmp_path / "list"
    times = ("1.50,0:02", "0:59.999,1:00:00.0", ",7", "3.,", "1e-3,10")
    path.write_text("video,label,start,end\n" + "".join(f"a,x,{time}\n" for time in times))
    assert [str(row.segment) for row in read_list(path)[0]] == ["@1.5-2", "@59.999-3600", "@0-7", "@3-", "@0.001-10"]
    path.write_text('{"video": "a", "label": "x", "start": 0.10, "end": 12.30}\n{"video": "a", "label": 3}\n')
    assert [str(row.segment) for row in read_list(path)[0]] == ["@0.1-12.3", "None"]
    for time, words in (
        ("5,5", "ends at 5 s and begins at 5 s"), ("-1,5", "got start '-1', expected seconds such as 12.5"),
        ("0:61,70", "got start '0:61'"), ("nan,1", "got start 'nan'"), ("1:75:00,9", "got start '1:75:00'"),
    ):  # fmt: skip
        path.write_text(f"video,label,start,end\na,x,{time}\n")
        with pytest.raises(SourceError, match=f"list, line 2: {words}"):
            read_list(path)


# The CSV for --splits ---------------------------------------------------------------------------------------

NAMES = ("Walk/a.mp4", "Walk/sub/b, c.mp4", "Run/new\nline.mp4", "Run/bad\udcff.mp4")


def split(folder: Path, text: str, names: tuple[str, ...] = NAMES) -> dict[str, tuple[dict[str, str], str]]:
    """Video -> sides and group, of class folders with a CSV."""
    csv = folder / "splits.csv"
    root = touch(folder / "v", *names)
    csv.write_bytes(text.encode("utf-8", "surrogateescape"))
    videos = FOLDER.load(root, splits=csv).videos
    return {video.video_id: (video.splits, video.group) for video in videos}


def test_two_columns_are_enough(tmp_path: Path) -> None:
    assert split(tmp_path, "video,membership\nWalk/a.mp4,train\n\nRun/bad\udcff.mp4,TEST\n") == {
        "Walk/a.mp4": ({"split1": "train"}, "Walk/a.mp4"),
        "Run/bad\udcff.mp4": ({"split1": "test"}, "Run/bad\udcff.mp4"),
    }


def test_all_columns_in_any_order_with_mark_crlf_quotes_and_spaces(tmp_path: Path) -> None:
    text = (
        "\ufeffMembership, group ,VIDEO,split\r\n"
        'train,anna,"Walk/sub/b, c.mp4",by-person\r\n'
        'test,,"Walk/sub/b, c.mp4",by-day\r\n'
        'test, bert ,"Run/new\nline.mp4",by-person\r\n'
    )
    assert split(tmp_path, text) == {
        "Walk/sub/b, c.mp4": ({"by-person": "train", "by-day": "test"}, "anna"),
        "Run/new\nline.mp4": ({"by-person": "test"}, "bert"),
    }


def test_other_spellings_of_a_name_are_taken_for_the_one_that_they_can_only_mean(tmp_path: Path) -> None:
    composed, decomposed = "Walk/caf\u00e9.mp4", "Walk/cafe\u0301.mp4"
    for written in (decomposed, f"./{composed}", composed.replace("/", "\\"), f" {composed}"):
        text = f"video,membership\n{written},test\n"
        assert split(tmp_path, text, (composed,)) == {composed: ({"split1": "test"}, composed)}
    both = (composed, decomposed)
    text = f"video,membership\n {composed},test\n"
    assert list(split(tmp_path / "space", text, (*both, f" {composed}"))) == [f" {composed}"]
    exact = split(tmp_path, f"video,membership\n{decomposed},test\n{composed},train\n", both)
    assert {name: sides for name, (sides, _) in exact.items()} == {
        composed: {"split1": "train"},
        decomposed: {"split1": "test"},
    }
    with pytest.raises(SourceError, match=r"line 2: './Walk.* may mean 'Walk/cafe.*' or 'Walk/caf.*': write one"):
        split(tmp_path, f"video,membership\n./{composed},test\n", both)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: got '', expected the columns video,membership"),
        ("video;membership\nWalk/a.mp4;train\n", "got 'video;membership', expected .* separated by commas"),
        ("Walk/a.mp4,train\n", "got 'Walk/a.mp4,train', expected the columns"),
        ("video,membership,spilt\nWalk/a.mp4,train,x\n", "got the column 'spilt', expected the columns"),
        ("video,membership,video\nWalk/a.mp4,train,x\n", "got 'video,membership,video', expected"),
        ("video,membership\n", "names no video"),
        ("video,membership\nWalk/a.mp4,vel\n", "line 2: got membership 'vel', expected train, val or test"),
        ("video,membership\nWalk/a.mp4,none\n", "line 2: got membership 'none', expected train, val or test"),
        ("video,membership,split\nWalk/a.mp4,train,a/b\n", "line 2: got split 'a/b', expected a name"),
        (
            "video,membership\nWalk/a.mp4,train\nWalk/a.mp4,test\n",
            "line 3: 'Walk/a.mp4' is in test of split1, and in tr",
        ),
        (
            "video,membership\nWalk/a.mp4,train,x\nWalk/a.mp4\n",
            "line 2: got 3 fields, expected 2 .*; line 3: got 1",
        ),
    ],
)
def test_what_is_wrong_with_a_csv_is_said_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        split(tmp_path, text)


def test_files_that_are_no_csv(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    with pytest.raises(SourceError, match=r"splits.csv cannot be read: No such file"):
        read_split_csv(path)
    path.write_text("video,membership\nWalk/a.mp4,train\n", encoding="utf-16")
    with pytest.raises(SourceError, match="is in UTF-16: save it in UTF-8"):
        read_split_csv(path)


@settings(max_examples=150)
@given(st.binary(max_size=80) | st.lists(st.sampled_from([*'\n\r,;"\0 ', "video", "membership", "train"])).map("".join))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes | str) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.csv"
    path.write_bytes(junk if isinstance(junk, bytes) else junk.encode())
    with suppress(SourceError):
        assert read_split_csv(path)
