"""Shapes: T frames, H height, W width, C channels."""

import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.train.conftest import make_clip_store

import resact
from resact.errors import UsageError
from resact.train.clips import figure as module
from resact.train.clips.figure import (
    FORMATS,
    Excerpt,
    Look,
    contact_sheet,
    encoded,
    figure,
    read_excerpt,
    require_drawable,
    strip,
    visible_gain,
)
from resact.train.clips.plain_transform import resize_clip


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def residual_of(frames_THWC, step):
    """The public definition."""
    clip_BCTHW = torch.from_numpy(frames_THWC).permute(3, 0, 1, 2)[None]
    return resact.residual_frames(clip_BCTHW, step=step)[0].permute(1, 2, 3, 0).numpy()


def places(picture, tile):
    """Positions in the picture at which it equals the tile, pixel for pixel."""
    height, width, _ = tile.shape
    room = picture[: picture.shape[0] - height + 1, : picture.shape[1] - width + 1]
    corners = np.argwhere((room == tile[0, 0]).all(-1)).tolist()
    return [(y, x) for y, x in corners if np.array_equal(picture[y : y + height, x : x + width], tile)]


def excerpt_of(seed, look, *, num_frames=20, size=(12, 16), **changes):
    frames = noise(seed, num_frames, *size)
    known = {"video_id": "v_Jump_g01", "class_name": "Jump", "problem": "", "num_frames": num_frames, "fps": 15.0}
    made = Excerpt(**known, times=look.times(num_frames), frames=dict(enumerate(frames)))
    return frames, replace(made, **changes)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 7), data=st.data())
@settings(max_examples=30)
def test_strip_shows_frames_above_the_residuals_that_networks_are_given(seed, count, data):
    steps = data.draw(st.lists(st.integers(1, count - 1), min_size=1, max_size=3, unique=True))
    frames = noise(seed, count, 6, 5)
    columns = count - max(steps)
    picture = strip(frames, steps)
    assert picture.shape == ((1 + len(steps)) * 10 - 4, columns * 9 - 4, 3)
    shown = np.zeros(picture.shape[:2], bool)
    for number, row in enumerate([frames, *(residual_of(frames, step) for step in steps)]):
        for column in range(columns):
            part = np.s_[number * 10 : number * 10 + 6, column * 9 : column * 9 + 5]
            np.testing.assert_array_equal(picture[part], row[column])
            shown[part] = True
    assert (picture[~shown] == 255).all()


def test_strip_shows_the_asked_frames_and_a_stated_gain(seed):
    frames = noise(seed, 9, 4, 6)
    picture = strip(frames, [2], times=[1, 6], gain=2.5)
    dark = residual_of(frames, 2)[[1, 6]].astype(float)
    np.testing.assert_array_equal(picture[:4, 10:], frames[6])
    np.testing.assert_array_equal(picture[8:, :6], np.minimum(np.rint(dark[0] * 2.5), 255))
    np.testing.assert_array_equal(picture[8:, 10:], np.minimum(np.rint(dark[1] * 2.5), 255))


@pytest.mark.parametrize(
    ("frames", "options", "words"),
    [
        (np.zeros((3, 4, 4), np.uint8), {}, r"got frames \(3, 4, 4\) of uint8, expected \(T, H, W, 3\)"),
        (np.zeros((3, 4, 4, 3)), {}, r"of float64, expected \(T, H, W, 3\) of uint8"),
        (np.zeros((3, 4, 4, 3), np.uint8), {"steps": [3]}, r"got steps \[3\] for 3 frames, expected them below that"),
        (np.zeros((3, 4, 4, 3), np.uint8), {"steps": [0]}, r"got steps 0, expected different whole numbers of 1"),
        (np.zeros((3, 4, 4, 3), np.uint8), {"times": [2]}, r"got times \[2\], expected them among the 2 frames"),
        (np.zeros((3, 4, 4, 3), np.uint8), {"gain": float("nan")}, r"got gain nan, expected a number above 0"),
    ],
)
def test_strip_refuses_what_it_cannot_show(frames, options, words):
    with pytest.raises(UsageError, match=words):
        strip(frames, **options)


@given(
    num_frames=st.integers(0, 300),
    count=st.integers(1, 12),
    start=st.integers(0, 50),
    every=st.none() | st.integers(1, 40),
    step=st.integers(1, 8),
)
def test_columns_are_evenly_spaced_frames_with_all_their_successors(num_frames, count, start, every, step):
    times = Look(steps=(step, 1) if step > 1 else (1,), frames=count, start=start, every=every).times(num_frames)
    room = max(0, num_frames - step - start)
    assert len(times) == min(count, room if every is None else -(-room // every))
    assert all(start <= time < num_frames - step for time in times)
    gaps = set(np.diff(times).tolist())
    if every is not None:
        assert gaps <= {every}
        assert not times or times[0] == start
    elif len(times) > 1:
        assert (times[0], times[-1]) == (start, num_frames - step - 1)
        assert max(gaps) - min(gaps) <= 1
        assert min(gaps) >= 1
    elif times:
        assert times == [(start + num_frames - step - 1) // 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": 0}, "got frames 0, expected a whole number of 1 or more"),
        ({"height": 0}, "got height 0"),
        ({"start": -1}, "got start -1, expected a frame number of 0 or more"),
        ({"every": 0}, "got every 0"),
        ({"gain": 0.0}, "got gain 0.0, expected a number above 0"),
        ({"steps": (1, 1)}, "got steps 1,1, expected different whole numbers"),
        ({"steps": ()}, "got steps , expected"),
    ],
)
def test_wrong_looks_are_told(options, words):
    with pytest.raises(UsageError, match=words):
        Look(**options)


def test_excerpts_hold_the_stored_frames_resized_as_training_does(tmp_path, seed):
    store = make_clip_store(tmp_path / "s.zarr", [9, 30, 25], sizes=((24, 24), (40, 40), (64, 64)))
    look = Look(steps=(1, 4), frames=3, height=20)
    for row, video_id in enumerate(store.index.video_id):
        excerpt = read_excerpt(store, row, look)
        stored = store.read(video_id, 0, excerpt.num_frames)
        side = stored.shape[1]
        trained = resize_clip(torch.from_numpy(stored), top=0, left=0, side=side, size=20).permute(0, 2, 3, 1).numpy()
        assert (excerpt.video_id, excerpt.num_frames) == (video_id, len(stored))
        assert sorted(excerpt.frames) == sorted({time + step for time in excerpt.times for step in (0, 1, 4)})
        for time, frame in excerpt.frames.items():
            assert np.abs(frame.astype(int) - trained[time]).max() <= 1
        assert excerpt.seconds(30) == 30 / float(store.settings.decode.fps)
        for time, frame in read_excerpt(store, row, replace(look, height=side)).frames.items():
            np.testing.assert_array_equal(frame, stored[time])


def still_but_for(*values):
    """An excerpt with these residuals at step 1, one per column, in 1 of 20 pixels; at step 2 they double."""
    frames = {}
    for column, value in enumerate(values):
        for place in range(3):
            frame = np.full((20, 20, 3), 100, np.uint8)
            frame[0] += np.uint8(place * value)
            frames[3 * column + place] = frame
    times = [3 * column for column in range(len(values))]
    return excerpt_of(0, Look(), times=times, frames=frames)[1]


@pytest.mark.parametrize(
    ("excerpts", "steps", "gain"),
    [
        ([still_but_for(5)], (1,), 16),
        ([still_but_for(15)], (1,), 16),
        ([still_but_for(20)], (1,), 12),
        ([still_but_for(20)], (1, 2), 6),
        ([still_but_for(5, 20)], (1,), 12),
        ([still_but_for(5), still_but_for(20)], (1,), 12),
        ([still_but_for(70)], (1, 2), 1.5),
        ([still_but_for(0)], (1,), 1),
        ([], (1,), 1),
    ],
)
def test_one_gain_brings_the_brightest_residuals_of_a_figure_close_to_white(excerpts, steps, gain):
    assert visible_gain((excerpt, steps) for excerpt in excerpts) == gain


def test_a_few_pixels_do_not_decide_the_gain():
    excerpt = still_but_for(10)
    excerpt.frames[1][1, :7] = 255  # 1.75 % of the pixels
    assert visible_gain([(excerpt, (1,))]) == 16


@pytest.mark.parametrize("size", [(12, 16), (20, 9), (30, 100)])
def test_figure_has_a_column_a_frame_and_a_row_a_step(seed, size):
    look = Look(steps=(1, 3), frames=4)
    frames, excerpt = excerpt_of(seed, look, size=size)
    picture = figure(excerpt, look)
    expected = [frames, residual_of(frames, 1), residual_of(frames, 3)]
    found = np.array([[places(picture, row[time]) for time in excerpt.times] for row in expected])
    assert found.shape == (3, 4, 1, 2), "each picture is there, once"
    y, x = found[:, :, 0, 0], found[:, :, 0, 1]
    assert (x == x[0]).all()
    assert (y == y[:, :1]).all()
    assert len(set(np.diff(x[0]).tolist())) == 1
    assert np.diff(x[0])[0] >= size[1] + 4
    assert (np.diff(y[:, 0]) == max(size[0], module._line(module._font(13))) + 4).all()


def words_drawn(monkeypatch, draw, *arguments):
    """The lines of text that are drawn; checks that the picture's edge cuts none of them."""
    lines = []
    write = module._Canvas.write

    def recording(canvas, x, y, texts, font, *colour):
        for number, text in enumerate(texts):
            left, top, right, bottom = font.getbbox(text)
            line = y + number * module._line(font)
            assert x + left >= 0
            assert x + right <= canvas._image.width
            assert line + top >= 0
            assert line + bottom <= canvas._image.height
        lines.extend(texts)
        before = canvas._image.tobytes()
        write(canvas, x, y, texts, font, *colour)
        assert not any(texts) or canvas._image.tobytes() != before

    monkeypatch.setattr(module._Canvas, "write", recording)
    draw(*arguments)
    return lines


def test_figure_says_video_class_times_steps_and_gain(monkeypatch):
    look = Look(steps=(2, 4), frames=3, gain=4)
    _, excerpt = excerpt_of(1, look, num_frames=1_030, size=(2, 2), problem="half of it is gone")
    assert words_drawn(monkeypatch, figure, excerpt, look) == [
        "v_Jump_g01",
        "Jump, 1,030 frames at 15 a second",
        "half of it is gone",
        "frame 0", "0.00 s", "frame 512", "34.13 s", "frame 1,025", "68.33 s",
        "RGB", "step 2, gain 4", "step 4, gain 4",
    ]  # fmt: skip
    plain = words_drawn(monkeypatch, figure, replace(excerpt, fps=None), replace(look, gain=1))
    assert not [line for line in plain if " s" in line and "step" not in line]
    assert "step 2, gain 1" in plain, "also where residuals are shown as they are"


def test_long_and_foreign_names_are_broken_and_escaped_not_cut(monkeypatch):
    look = Look(frames=1)
    name = "a/very long name " + "x" * 200 + "\n\udce4ü中"
    _, excerpt = excerpt_of(1, look, video_id=name)
    for draw in (figure, lambda excerpt, look: contact_sheet([excerpt], look)):
        lines = words_drawn(monkeypatch, draw, excerpt, look)
        together = "".join(line for line in lines if not line.startswith("frame"))
        escaped = "a/very long name " + "x" * 200 + r"\n\udce4\xfc\u4e2d"
        assert escaped.replace(" ", "") in together.replace(" ", "")


def test_contact_sheet_has_a_cell_a_video_and_a_heading_a_class(monkeypatch, seed):
    look = Look(steps=(2,), frames=1, height=10)
    monkeypatch.setattr(module, "_SHEET_WIDTH", 600)
    made = [
        excerpt_of(seed + n, look, size=(10, 16), video_id=f"v{n}", class_name="Jump" if n < 8 else "Walk")
        for n in range(11)
    ]
    empty = {"num_frames": 0, "times": [], "frames": {}, "class_name": "Walk", "problem": "not a video"}
    failed = excerpt_of(seed, look, video_id="gone", **empty)[1]
    short = replace(failed, video_id="short", num_frames=2, problem="")
    excerpts = [*(excerpt for _, excerpt in made), failed, short]
    lines = words_drawn(monkeypatch, contact_sheet, excerpts, look)
    assert [line for line in lines if "videos" in line] == [
        "Jump: 8 videos; RGB, residuals at step 2, gain 1",
        "Walk: 5 videos; RGB, residuals at step 2, gain 1",
    ]
    together = " ".join(lines)
    assert "gone has no frames: not a video" in together
    assert "short has 2 frames, expected 3 or more for a residual at step 2 from frame 0" in together
    assert together.count("frame 8, 0.53 s") == 11
    picture = contact_sheet(excerpts, look)
    corners = []
    for frames, excerpt in made:
        (time,) = excerpt.times
        ((y, x),) = places(picture, frames[time])
        assert places(picture, residual_of(frames, 2)[time]) == [(y + 14, x)]
        corners.append((y, x))
    assert corners == sorted(corners), "in order, row by row"
    assert len({y for y, _ in corners}) > 2


def test_what_is_too_short_or_too_large_is_told(tmp_path, monkeypatch):
    look = Look(steps=(4,))
    _, excerpt = excerpt_of(0, look, num_frames=4)
    with pytest.raises(UsageError, match="'v_Jump_g01' has 4 frames, expected 5 or more for a residual at step 4 from"):
        figure(excerpt, look)
    store = make_clip_store(tmp_path / "s.zarr", [9, 30])
    require_drawable(store, [0, 1], look)
    with pytest.raises(UsageError, match=r"got a picture of 1,\d\d\d million pixels, expected at most 100"):
        require_drawable(store, [0, 1], replace(look, height=6_000))
    contact_sheet([excerpt] * 9, look)
    monkeypatch.setattr(module, "MAX_PIXELS", 200_000)
    with pytest.raises(UsageError, match="million pixels"):
        contact_sheet([excerpt] * 9, look)


@pytest.mark.parametrize("suffix", FORMATS)
def test_files_hold_the_picture(suffix, seed):
    smooth = np.add.outer(np.arange(40), np.arange(60))[..., None] + np.array([0, 40, 80])
    picture = smooth.astype(np.uint8)
    read = np.asarray(Image.open(io.BytesIO(encoded(picture, suffix))).convert("RGB")).astype(int)
    assert np.abs(read - picture).max() <= (8 if suffix in (".jpg", ".jpeg") else 0)


def test_formats_that_cannot_hold_it_are_told():
    with pytest.raises(UsageError, match=r"got a picture's suffix '.gif', expected one of .png, "):
        encoded(np.zeros((4, 4, 3), np.uint8), ".gif")
    with pytest.raises(UsageError, match=r"got 1x20,000 pixels for .webp, expected at most 16,383 a side: write .png"):
        encoded(np.zeros((20_000, 1, 3), np.uint8), ".webp")


def test_pictures_are_drawn_without_torch(tmp_path):
    make_clip_store(tmp_path / "s.zarr", [9])
    code = (
        "import sys, resact\n"
        "from resact.train.clips.figure import Look, encoded, figure, read_excerpt\n"
        "look = Look()\n"
        f"encoded(figure(read_excerpt(resact.open_store({str(tmp_path / 's.zarr')!r}), 0, look), look), '.png')\n"
        "print([m for m in ('torch', 'zarr', 'dask') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
