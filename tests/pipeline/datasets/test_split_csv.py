"""A user's CSV: what it may look like, and what is said where it is wrong."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resact.errors import SourceError
from resact.pipeline.datasets.split_csv import read_split_csv

NAMES = ["Walk/a.mp4", "Walk/sub/b, c.mp4", "Run/new\nline.mp4", "Run/bad\udcff.mp4"]


def write(folder: Path, text: str) -> Path:
    path = folder / "splits.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def test_two_columns_are_enough(tmp_path: Path) -> None:
    lists = read_split_csv(write(tmp_path, "video,membership\nWalk/a.mp4,train\n\nRun/bad\udcff.mp4,TEST\n"), NAMES)
    assert lists.splits == ("split1",)
    assert lists.memberships == {"Walk/a.mp4": {"split1": "train"}, "Run/bad\udcff.mp4": {"split1": "test"}}
    assert lists.groups == {}


def test_all_columns_in_any_order_with_mark_crlf_quotes_and_spaces(tmp_path: Path) -> None:
    text = (
        "\ufeffMembership, group ,VIDEO,split\r\n"
        'train,anna,"Walk/sub/b, c.mp4",by-person\r\n'
        'test,,"Walk/sub/b, c.mp4",by-day\r\n'
        'test, bert ,"Run/new\nline.mp4",by-person\r\n'
    )
    lists = read_split_csv(write(tmp_path, text), NAMES)
    assert lists.splits == ("by-day", "by-person")
    assert lists.memberships == {
        "Walk/sub/b, c.mp4": {"by-person": "train", "by-day": "test"},
        "Run/new\nline.mp4": {"by-person": "test"},
    }
    assert lists.groups == {"Walk/sub/b, c.mp4": "anna", "Run/new\nline.mp4": "bert"}


def test_other_spellings_of_a_name_are_taken_for_the_one_that_they_can_only_mean(tmp_path: Path) -> None:
    composed, decomposed = "Walk/caf\u00e9.mp4", "Walk/cafe\u0301.mp4"
    for written in (decomposed, f"./{composed}", composed.replace("/", "\\"), f" {composed}"):
        path = write(tmp_path, f"video,membership\n{written},test\n")
        assert read_split_csv(path, [composed]).memberships == {composed: {"split1": "test"}}
    both = [composed, decomposed]
    assert read_split_csv(path, [*both, f" {composed}"]).memberships == {f" {composed}": {"split1": "test"}}
    exact = write(tmp_path, f"video,membership\n{decomposed},test\n{composed},train\n")
    assert read_split_csv(exact, both).memberships == {composed: {"split1": "train"}, decomposed: {"split1": "test"}}
    with pytest.raises(SourceError, match=r"line 2: './Walk.* may mean 'Walk/cafe.*' or 'Walk/caf.*': write one"):
        read_split_csv(write(tmp_path, f"video,membership\n./{composed},test\n"), both)


def test_videos_that_are_not_there_keep_their_name(tmp_path: Path) -> None:
    lists = read_split_csv(write(tmp_path, "video,membership\nWalk/gone.mp4,test\n"), NAMES)
    assert lists.memberships == {"Walk/gone.mp4": {"split1": "test"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: got '', expected the columns video,membership"),
        ("video;membership\nWalk/a.mp4;train\n", "got 'video;membership', expected .* separated by commas"),
        ("Walk/a.mp4,train\n", "got 'Walk/a.mp4,train', expected the columns"),
        ("video,membership,spilt\nWalk/a.mp4,train,x\n", "got 'video,membership,spilt', expected"),
        ("video,membership,video\nWalk/a.mp4,train,x\n", "got 'video,membership,video', expected"),
        ("video,membership\n", "names no video"),
        ("video,membership\nWalk/a.mp4\n", "line 2: got 1 fields, expected 2"),
        ("video,membership\nWalk/a.mp4,train,x\n", "line 2: got 3 fields, expected 2"),
        ("video,membership\nWalk/a.mp4,vel\n", "line 2: got membership 'vel', expected train, val or test"),
        ("video,membership,split\nWalk/a.mp4,train,a/b\n", "line 2: got split 'a/b', expected a name"),
        ("video,membership\nWalk/a.mp4,train\nWalk/a.mp4,test\n", "line 3: 'Walk/a.mp4' is both in train and in test"),
        (
            "video,membership\nWalk/a.mp4,train\n./Walk/a.mp4,train\n",
            "line 3: 'Walk/a.mp4' is twice in train of split1",
        ),
        (
            "video,membership,split,group\nWalk/a.mp4,train,x,g\nWalk/a.mp4,test,y,h\n",
            "line 3: 'Walk/a.mp4' is of group 'h' and of group 'g'",
        ),
        ('video,membership\n"Walk/a.mp4,train\n', "line 2: unexpected end of data"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read_split_csv(write(tmp_path, text), NAMES)


def test_files_that_are_no_csv(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"splits.csv cannot be read: No such file"):
        read_split_csv(tmp_path / "splits.csv", NAMES)
    (tmp_path / "splits.csv").write_text("video,membership\nWalk/a.mp4,train\n", encoding="utf-16")
    with pytest.raises(SourceError, match="is in UTF-16: save it in UTF-8"):
        read_split_csv(tmp_path / "splits.csv", NAMES)


@settings(max_examples=150)
@given(st.binary(max_size=80) | st.lists(st.sampled_from([*'\n\r,;"\0 ', "video", "membership", "train"])).map("".join))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes | str) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.csv"
    path.write_bytes(junk if isinstance(junk, bytes) else junk.encode())
    with suppress(SourceError):
        assert read_split_csv(path, NAMES).memberships
