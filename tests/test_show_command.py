"""`resact show`, from a store to a picture in a file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from tests.cache.conftest import VIDEOS, build
from tests.commands import call, error_of, last_json
from tests.conftest import fill
from tests.train.conftest import make_clip_store

from resact.cache.layout import SHARD, array_name
from resact.cache.store import open_store
from resact.errors import DamagedError, DiskFullError, UsageError
from resact.train.clips.figure import Look, contact_sheet, figure, read_excerpt, visible_gain

VIDEO = "v_Jump_g01_n000"


def show(*arguments: object) -> Result:
    result = call("show", *arguments)
    assert result.exit_code == 0
    return result


def payload(*arguments: object) -> dict[str, Any]:
    return last_json(show(*arguments, "--json"))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos of three classes, of which two are too short for step 2."""
    folder = tmp_path_factory.mktemp("show")
    (folder / "data").mkdir()
    make_clip_store(folder / "data" / "small.zarr", [40, 2, 30, 25, 33, 1, 40, 40, 40, 12, 12, 12])
    return folder / "data" / "small.zarr"


@pytest.fixture
def here(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a data folder with one store."""
    monkeypatch.setenv("RESACT_DATA", str(path.parent))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_video_is_drawn_into_the_file(here: Path, path: Path) -> None:
    store = open_store(path)
    video = store.index.video_id[0]
    result = payload(path, video, "--step", "2", "-o", "fig.png")
    look = Look(steps=(2,))
    excerpt = read_excerpt(store, 0, look)
    look = replace(look, gain=visible_gain([(excerpt, (2,))]))
    np.testing.assert_array_equal(pixels(here / "fig.png"), figure(excerpt, look))
    height, width, _ = pixels(here / "fig.png").shape
    assert (result["output"], result["width"], result["height"]) == ("fig.png", width, height)
    assert (result["steps"], result["gain"]) == ([2], look.gain)
    assert result["videos"] == [
        {
            "video_id": video,
            "class_name": excerpt.class_name,
            "frames": excerpt.times,
            "seconds": [excerpt.seconds(time) for time in excerpt.times],
        }
    ]
    assert len(excerpt.times) == 8
    assert [entry.name for entry in here.iterdir()] == ["fig.png"], "nothing else is left behind"


def test_every_option_reaches_the_picture(here: Path, path: Path) -> None:
    options = "--step 1,2 --step 4 --frames 3 --start 5 --every 6 --height 30 --gain 2 -o out.tiff"
    result = payload(path, open_store(path).index.video_id[0], *options.split())
    look = Look(steps=(1, 2, 4), frames=3, start=5, every=6, height=30, gain=2)
    assert result["videos"][0]["frames"] == [5, 11, 17]
    np.testing.assert_array_equal(pixels(here / "out.tiff"), figure(read_excerpt(open_store(path), 0, look), look))


def test_dark_residuals_are_made_visible_by_a_gain_that_is_said(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dark(_: int, length: int, height: int, width: int) -> np.ndarray:
        """A moving bar that is brighter than its background by 5."""
        bar = (np.arange(height)[None] - np.arange(length)[:, None]) % height < 4
        return np.broadcast_to((100 + 5 * bar)[:, :, None, None], (length, height, width, 3)).astype(np.uint8)

    monkeypatch.setattr("tests.train.conftest.clip_store_frames", dark)
    video = make_clip_store(tmp_path / "dark.zarr", [12]).index.video_id[0]
    for options, gain in (((), 16), (("--gain", "1"), 1), (("--gain", "3"), 3)):
        command = [tmp_path / "dark.zarr", video, "--step", "1,2", "--height", "24", "-o", "d.png", *options]
        said = show(*command)
        assert said.stdout.rstrip().endswith(f"residuals at gain {gain}")
        assert payload(*command)["gain"] == gain
        assert (pixels(here / "d.png") == 5 * gain).all(-1).sum() >= 8 * 24 * (2 + 4), "8 columns of two steps"


def test_the_only_store_is_found_and_the_picture_is_named_after_the_video(here: Path, path: Path) -> None:
    video = open_store(path).index.video_id[0]
    result = show(video)
    assert result.stdout.startswith(f"{video}.png: ")
    (here / f"{video}.png").rename("first.png")
    show(path, video)
    assert Path(f"{video}.png").read_bytes() == Path("first.png").read_bytes()


def test_contact_sheet_of_classes(here: Path, path: Path) -> None:
    store = open_store(path)
    classes = sorted(set(store.index.class_name))
    result = payload("--classes", ",".join(classes[:2]), "--step", "2")
    rows = [row for name in classes[:2] for row in range(12) if store.index.class_name[row] == name]
    look = Look(steps=(2,), frames=1)
    excerpts = [read_excerpt(store, row, look) for row in rows]
    picture = contact_sheet(excerpts, replace(look, gain=visible_gain((excerpt, (2,)) for excerpt in excerpts)))
    np.testing.assert_array_equal(pixels(here / "classes.png"), picture)
    assert [video["video_id"] for video in result["videos"]] == [store.index.video_id[row] for row in rows]
    fewer = payload(path, "--classes", classes[0], "--per-class", "2", "-o", "few.png")["videos"]
    of_class = [store.index.video_id[row] for row in range(12) if store.index.class_name[row] == classes[0]]
    assert [video["video_id"] for video in fewer] == [of_class[0], of_class[-1]]


def test_short_videos_are_noted(here: Path, path: Path) -> None:
    store = open_store(path)
    short = int(np.flatnonzero(store.index.num_frames == 2)[0])
    name = store.index.video_id[short]
    sheet = show("--classes", store.index.class_name[short], "--step", "2")
    assert f"note: {name}: 0 of 1 frames shown, of its 2\n" in sheet.stdout
    alone = show(name)
    assert f"note: {name}: 1 of 8 frames shown, of its 2\n" in alone.stdout
    with pytest.raises(UsageError, match="has 2 frames, expected 3 or more for a residual at step 2"):
        show(name, "--step", "2")


def test_every_video_of_a_class_is_there_whatever_its_name_and_state(here: Path, tmp_path: Path) -> None:
    """An id that is not UTF-8, one frame, a failed video: each has a cell with its name."""
    odd = tmp_path / "odd.zarr"
    build(odd, "zstd")
    result = show(odd, "--classes", "Jump,Walk", "--json")
    listed = {video["video_id"]: video["frames"] for video in last_json(result)["videos"]}
    assert listed == {video_id: [(n - 2) // 2] if n > 1 else [] for video_id, _, n, *_ in VIDEOS}
    notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert sorted(line.split(":")[1].strip() for line in notes) == ["index", "one frame", r"v_d\udce4maged.ü"]
    show(odd, "v_d\udce4maged.ü")
    assert (here / "v_d%E4maged.%C3%BC.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("STORE", "V_jump_g01_n00"), r"got video 'V_jump_g01_n00', expected one of the 12 in .*, such as v_"),
        (("STORE", "CLASS"), r"which is a class: show it with --classes "),
        (("STORE",), "got neither a VIDEO nor --classes, expected one: `resact show STORE VIDEO`"),
        ((), "got neither a VIDEO nor --classes"),
        (("STORE", "VIDEO", "--classes", "CLASS"), "got both the video .* and --classes, expected one: "),
        (("STORE", "--classes", "Nonsense"), "got class 'Nonsense', expected one of the 3 in .*, such as "),
        (("STORE", "VIDEO", "--step", "1,x"), "got --step '1,x', expected whole numbers separated by commas"),
        (("STORE", "VIDEO", "--step", "0"), "got steps 0, expected different whole numbers of 1 or more"),
        (("STORE", "VIDEO", "--frames", "0"), "got frames 0"),
        (
            ("STORE", "VIDEO", "--per-class", "2"),
            "got --per-class 2, expected a whole number of 1 or more, and --classes",
        ),
        (("STORE", "VIDEO", "--height", "20000"), "million pixels, expected at most 100"),
        (("STORE", "VIDEO", "-o", "fig.gif"), r"got --output fig.gif, expected a file that ends in .png, .jpg"),
        (
            ("STORE", "VIDEO", "-o", "nowhere/fig.png"),
            "got --output nowhere/fig.png, expected a file in a writable folder",
        ),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    here: Path, path: Path, arguments: tuple[str, ...], words: str
) -> None:
    index = open_store(path).index
    known = {"STORE": str(path), "VIDEO": index.video_id[0], "CLASS": index.classes[0]}
    with pytest.raises(UsageError, match=words):
        show(*(known.get(argument, argument) for argument in arguments))
    assert list(here.iterdir()) == []


def test_the_likest_ids_are_suggested(here: Path, path: Path) -> None:
    video = open_store(path).index.video_id[4]
    with pytest.raises(UsageError, match=rf"such as {video}"):
        show(video.upper().replace("_N", "_"))


def test_unwritable_folder_is_told_before_the_store_is_read(here: Path) -> None:
    (here / "folder.png").mkdir()
    for output, problem in {"folder.png": "a folder has that name", "/proc/fig.png": ".*"}.items():
        with pytest.raises(UsageError, match=rf"expected a file in a writable folder \({problem}\)"):
            show("nowhere.zarr", VIDEO, "-o", output)


def test_a_failure_leaves_the_last_picture(here: Path, tmp_path: Path, small_disk: Path) -> None:
    store = make_clip_store(tmp_path / "own.zarr", [30])
    video = store.index.video_id[0]
    output = small_disk / "fig.png"
    show(tmp_path / "own.zarr", video, "-o", output)
    before = output.read_bytes()
    filler = fill(small_disk)
    with pytest.raises(DiskFullError):
        show(tmp_path / "own.zarr", video, "-o", output, "--step", "2")
    filler.unlink()
    shard = tmp_path / "own.zarr" / array_name(video) / SHARD
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError):
        show(tmp_path / "own.zarr", video, "-o", output, "--every", "1", "--frames", "30")
    assert output.read_bytes() == before
    assert [entry.name for entry in small_disk.iterdir()] == ["fig.png"]


def test_a_part_of_an_id_will_do_where_one_video_has_it(here: Path, tmp_path: Path) -> None:
    """Ids are those of `clip_store`: v_Fall_g01_n000 and so on."""
    store = make_clip_store(tmp_path / "parts.zarr", [12, 20, 15, 14])
    ids = list(store.index.video_id)
    assert [name.rpartition("_")[2] for name in ids] == ["n000", "n003", "n002", "n001"]
    for part in ("n003", "N003", "g02"):
        assert payload(tmp_path / "parts.zarr", part, "-o", "a.png")["videos"][0]["video_id"] == ids[1]
    said = str(error_of("show", tmp_path / "parts.zarr", "g01", "-o", "a.png"))
    assert said == f"got video 'g01', which is a part of 3 ids: {ids[0]}, {ids[2]}, {ids[3]}. Name one of them"
