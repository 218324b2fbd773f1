"""Which source frames a video gives: the same from every container, and the frame that is shown where its rate varies.

Each source frame carries its number, as bars of black and white, so that the test reads it back.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pipeline.videos import DECODE, FIELD, H264, decoded, numbered, numbers_in, prep_files, write_video

from resact.cache.settings import FIRST_RULE
from resact.cache.summary import summarise
from resact.pipeline.decoding import decode as module
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.decoding.frame_times import Sampling, choose, fits, grid_registers

RATES = [Fraction(rate) for rate in (24, 25, 30, 48, 50, 60, 120, 240)]
NTSC = [Fraction(rate * 1000, 1001) for rate in (24, 30, 60)]
OUTPUTS = [Fraction(fps) for fps in (10, 12, 15, 30)]
MILLISECOND = Fraction(1, 1000)


# What the stamps say ---------------------------------------------------------------------------------------------


def stamps_of(
    kept: Sequence[int] | range, rate: Fraction, tick: Fraction, *, jitter: float = 0.0, seed: int = 0
) -> list[float]:
    """Time stamps in microseconds of frames at these places of a rate's grid, in a container with time base `tick`."""
    random = np.random.default_rng(seed)
    times = [float((place + Fraction(random.uniform(-jitter, jitter))) / rate) for place in kept]
    return [float(round(round(time / tick) * tick * 1_000_000)) for time in times]


def places(stamps: Sequence[float], rate: Fraction) -> list[int]:
    """Place of each frame on the grid of a rate."""
    return [int(place) for place in grid_registers(stamps, rate)[:, 1]]


@pytest.mark.parametrize("jitter", [0.0, 0.25])
@pytest.mark.parametrize("tick", [MILLISECOND, Fraction(1, 90_000), Fraction(1, 1_000_000)])
@pytest.mark.parametrize("rate", RATES + NTSC)
def test_a_constant_rate_is_on_its_grid(rate: Fraction, tick: Fraction, jitter: float) -> None:
    for seed in range(4 if jitter else 1):
        stamps = stamps_of(range(700), rate, tick, jitter=jitter, seed=seed)
        assert choose(stamps, rate, tick) is None
        assert places(stamps, rate) == list(range(700))
        for declared in (None, rate * Fraction(121, 120), Fraction(1000), Fraction(90_000)):
            assert choose(stamps, declared, tick) == Sampling(rate=str(rate), by_stamps=False)


def test_a_rate_that_is_not_in_use_is_estimated() -> None:
    rate = Fraction(2737, 100)
    other = choose(stamps_of(range(3000), rate, MILLISECOND, jitter=0.1), Fraction(30), MILLISECOND)
    assert other is not None
    assert not other.by_stamps
    assert abs(Fraction(other.rate) - rate) * 3000 / rate < Fraction(1, 4)


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30), NTSC[1], Fraction(60)])
@pytest.mark.parametrize("jitter", [0.0, 0.125])
def test_where_frames_are_missing_the_others_keep_their_places(rate: Fraction, jitter: float) -> None:
    kept = [place for place in range(600) if place % 97 not in (3, 40, 41, 42) and not 200 <= place < 245]
    for seed in range(4 if jitter else 1):
        stamps = stamps_of(kept, rate, MILLISECOND, jitter=jitter, seed=seed)
        assert choose(stamps, rate, MILLISECOND) is None
        assert places(stamps, rate) == kept


@pytest.mark.parametrize("declared", [Fraction(60), Fraction(120)])
def test_a_declared_multiple_of_the_rate_will_do(declared: Fraction) -> None:
    stamps = stamps_of(range(300), Fraction(30), Fraction(1, 90_000))
    found = choose(stamps, declared, Fraction(1, 90_000))
    assert found is None
    assert places(stamps, declared) == [place * declared / 30 for place in range(300)]


def test_where_the_clock_begins_anew_the_grid_goes_on() -> None:
    recording = stamps_of(range(60), Fraction(30), MILLISECOND)
    late = [stamp + 500_000 for stamp in recording]
    for stamps in (recording * 2, late + recording, [stamp - 467_000 for stamp in recording[:14]] + recording):
        assert choose(stamps, Fraction(30), MILLISECOND) is None
        assert places(stamps, Fraction(30)) == list(range(len(stamps)))


def test_frames_without_stamps_come_one_behind_the_other() -> None:
    stamps = stamps_of(range(60), Fraction(30), MILLISECOND)
    for missing in (0, 7, 8, 59):
        stamps[missing] = float("nan")
    assert choose(stamps, Fraction(30), MILLISECOND) is None
    assert places(stamps, Fraction(30)) == list(range(60))


def varying(kind: str) -> list[float]:
    """Seconds."""
    random = np.random.default_rng(3)
    steps = {
        "at random": random.uniform(0.01, 0.12, 60),
        "30, then 20": np.repeat([1 / 30, 1 / 20], 30),
        "30, then 24": np.repeat([1 / 30, 1 / 24], 30),
        "30 and 20 in turns": np.tile([1 / 30, 1 / 20], 30),
        "slower and slower": np.linspace(0.02, 0.1, 60),
    }[kind]
    return [0.0, *np.cumsum(steps).tolist()]


@pytest.mark.parametrize("kind", ["at random", "30, then 20", "30, then 24", "slower and slower"])
@pytest.mark.parametrize("declared", [None, Fraction(30), Fraction(24), Fraction(1000)])
def test_a_rate_that_varies_is_no_grid(kind: str, declared: Fraction | None) -> None:
    stamps = [round(time * 1e3) * 1e3 for time in varying(kind)]
    found = choose(stamps, declared, MILLISECOND)
    assert found is not None
    assert found.by_stamps
    assert abs(float(Fraction(found.rate)) - 60 / varying(kind)[-1]) < 0.1


@given(st.integers(0, 2**32), st.sampled_from(["grid", "gaps", "random"]), st.sampled_from(RATES + NTSC))
def test_what_fits_has_fitted_all_along(seed: int, kind: str, declared: Fraction) -> None:
    """Otherwise decoding would reject a right rate, depending on how much of the log is there."""
    random = np.random.default_rng(seed)
    steps = {"grid": np.ones(80), "gaps": random.choice([1, 1, 1, 2, 3], 80), "random": random.uniform(0.2, 3, 80)}
    jitter = random.uniform(-0.3, 0.3, 80)
    stamps = ((np.cumsum(steps[kind]) + jitter) / float(declared) * 1e6).round().tolist()
    until = [fits(stamps[:count], declared, MILLISECOND) for count in range(len(stamps) + 1)]
    assert until == sorted(until, reverse=True)
    assert until[-1] or choose(stamps, declared, MILLISECOND) is not None


def borders(rate: Fraction, fps: Fraction) -> set[Fraction]:
    """Distances of all sampling times from the nearest start of a source frame, in seconds."""
    delay = Fraction(1, 64) / max(rate, fps)
    positions = {(k + Fraction(1, 2)) / fps - delay for k in range(4_004 if rate.denominator > 1 else 200)}
    return {min(at % (1 / rate), 1 / rate - at % (1 / rate)) for at in positions}


@pytest.mark.parametrize("rate", RATES + NTSC)
@pytest.mark.parametrize("fps", OUTPUTS)
def test_no_sampling_time_is_where_a_frame_begins(rate: Fraction, fps: Fraction) -> None:
    """Stamps in the graph are rounded to microseconds."""
    least = Fraction(2, 1_000_000) if rate in NTSC else Fraction(1, 65) / max(rate, fps)
    assert min(borders(rate, fps)) > least


# What ffmpeg makes of it -----------------------------------------------------------------------------------------


def timed_video(target: Path, times: Sequence[float], *encoder: object) -> Path:
    """Numbered frames that are shown from these times on, in seconds."""

    def search(first: int, last: int) -> str:
        if last - first == 1:
            return f"{times[first]:.6f}"
        middle = (first + last) // 2
        return f"if(lt(N,{middle}),{search(first, middle)},{search(middle, last)})"

    shown = f"settb=1/1000000,setpts='{search(0, len(times))}/TB'"
    keep = ("-fps_mode", "passthrough", "-enc_time_base", "1/90000")
    return write_video(target, numbered(len(times)), "-vf", shown, *keep, *encoder)


def sampled(num_frames: int, rate: Fraction, fps: Fraction) -> list[int]:
    """The frames by the rule of docs/videos.md, counted one by one."""
    found: list[int] = []
    while True:
        time = (len(found) + Fraction(1, 2)) / fps
        begun = sum((n + Fraction(1, 64) * rate / max(rate, fps)) / rate <= time for n in range(num_frames + 1))
        if begun > num_frames:
            return found
        found.append(max(begun - 1, 0))


FAST = (*H264, "-preset", "ultrafast")
VP8 = ("-c:v", "libvpx", "-b:v", "2M", "-deadline", "realtime", "-cpu-used", "8")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "3")
CONTAINERS: dict[str, tuple[object, ...]] = {
    "mp4": FAST,
    "ms.mp4": (*FAST, "-video_track_timescale", 1000),
    "mkv": FAST,
    "webm": VP8,
    "flv": FAST,
    "avi": MPEG4,
    "mov": FAST,
    "ts": FAST,
}


@pytest.mark.parametrize(
    ("container", "rate", "fps", "jitter"),
    [
        *((container, "30", "15", 0.0) for container in CONTAINERS),
        # Stamps are rounded to milliseconds, or in 90,000ths, or exact; which, the container decides.
        ("mp4", "30", "15", 0.25),
        ("ts", "30", "15", 0.25),
        ("mkv", "24", "15", 0.0),
        ("ms.mp4", "25", "15", 0.25),
        ("flv", "48", "12", 0.0),
        ("mkv", "50", "10", 0.0),
        ("mkv", "60", "12", 0.25),
        ("ms.mp4", "120", "15", 0.0),
        ("mkv", "240", "30", 0.25),
        ("mkv", "24000/1001", "12", 0.0),
        ("flv", "30000/1001", "15", 0.25),
        ("ts", "60000/1001", "15", 0.0),
        ("mp4", "30000/1001", "30", 0.0),
        ("mp4", "15", "15", 0.0),
        ("mkv", "12", "15", 0.0),  # frames are repeated
        ("avi", "7/2", "15", 0.0),
        ("mkv", "1/7", "2", 0.0),
    ],
)
def test_each_container_gives_the_frames_of_exact_stamps(
    tmp_path: Path, container: str, rate: str, fps: str, jitter: float
) -> None:
    exact, count = Fraction(rate), 63 if Fraction(rate) < 100 else 241
    count = count if exact > 5 else 4
    video, encoder = tmp_path / f"v.{container}", CONTAINERS[container]
    if jitter:
        moved = np.random.default_rng(1).uniform(-jitter, jitter, count) * (np.arange(count) > 0)
        timed_video(video, ((np.arange(count) + moved) / float(exact)).tolist(), *encoder)
    else:
        write_video(video, numbered(count), *encoder, fps=rate)
    every = numbers_in(decoded(video, replace(DECODE, fps="source")))
    assert every == list(range(len(every)))
    assert count - len(every) <= 1  # ffmpeg gives the last frame of a jittered MP4 no duration
    assert numbers_in(decoded(video, replace(DECODE, fps=fps))) == sampled(len(every), exact, Fraction(fps))


def test_the_rule_before_is_what_it_was(tmp_path: Path) -> None:
    """So old stores are repaired to the same bytes, and old runs get the frames they were trained on."""
    video = write_video(tmp_path / "v.mkv", numbered(60), *FAST, fps=30)
    assert numbers_in(decoded(video, replace(DECODE, rule=FIRST_RULE)))[:7] == [1, 2, 4, 7, 8, 10, 13]


@pytest.mark.parametrize(("rate", "count"), [("25", 1), ("60", 1), ("120", 3), ("1/2", 1)])
def test_a_video_shorter_than_a_frame_of_the_store_gives_one(tmp_path: Path, rate: str, count: int) -> None:
    """A sixtieth of a second would have no frame after resampling."""
    video = write_video(tmp_path / "v.mp4", numbered(count), *FAST, "-bf", 0, fps=rate)
    found = numbers_in(decoded(video))
    assert len(found) == (30 if rate == "1/2" else 1)
    assert set(found) <= set(range(count))
    assert numbers_in(decoded(video, replace(DECODE, fps="source"))) == list(range(count))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no other ffmpeg here")
@pytest.mark.parametrize("kind", ["grid", "jitter", "random"])
def test_another_ffmpeg_gives_the_same(tmp_path: Path, kind: str) -> None:
    jitter = np.random.default_rng(1).uniform(-0.25, 0.25, 90)
    times = {"grid": np.arange(90) / 30, "jitter": (np.arange(90) + jitter) / 30, "random": varying("at random")}[kind]
    video = timed_video(tmp_path / "v.mkv", list(times), *FAST)
    assert numbers_in(decoded(video, DECODE, binary=find_ffmpeg("ffmpeg")[0])) == numbers_in(decoded(video))


@pytest.mark.parametrize(
    ("container", "kind"),
    [
        *(("mkv", kind) for kind in ("at random", "30, then 20", "30 and 20 in turns", "slower and slower")),
        ("mp4", "at random"),
        ("flv", "at random"),
    ],
)
def test_of_a_varying_rate_the_frame_that_is_shown(tmp_path: Path, container: str, kind: str) -> None:
    times = [round(time, 3) for time in varying(kind)]
    video = timed_video(tmp_path / f"v.{container}", times, *FAST)
    found = numbers_in(decoded(video))
    assert len(found) >= 15 * times[-2] - 1
    for k, number in enumerate(found):
        time, slack = (k + 0.5) / 15, 0.0011
        if kind == "30 and 20 in turns":  # the same as 24 fps with a jitter of a fifth of a frame
            slack = 0.5 / 24
        last = times[number + 1] if number + 1 < len(times) else np.inf
        assert times[number] - slack <= time <= last + slack


def test_of_a_few_frames_at_any_times_the_one_that_is_shown(tmp_path: Path) -> None:
    """Each fifteenth of a second shows the frame that is on the screen at that time."""
    times = [0.0, 0.04, 0.08, 0.12, 0.6, 0.64, 0.9]
    video = timed_video(tmp_path / "v.mkv", times, *H264, "-bf", 0)
    found = numbers_in(decoded(video))
    assert len(found) >= 14
    assert found == [max(i for i, time in enumerate(times) if round(time * 15) <= n) for n in range(len(found))]
    assert numbers_in(decoded(video, replace(DECODE, fps="source"))) == list(range(len(times)))


def test_a_varying_rate_is_told_soon_and_kept_once(tmp_path: Path) -> None:
    video = timed_video(tmp_path / "v.mkv", varying("at random"), *FAST)
    prepped = prep_files(tmp_path, [video], codec="lz4")
    assert prepped.store.index.status == ["ok"]
    assert float(prepped.store.index.source_fps[0]) == pytest.approx(60 / varying("at random")[-1], abs=0.01)
    assert "setpts=st(2" in " ".join(prepped.attributes()["arguments"])
    whole = decoded(video)
    assert np.array_equal(prepped.store.read("v000", 0, len(whole)), whole)


def test_dropped_frames_leave_the_others_in_place(tmp_path: Path) -> None:
    kept = [place for place in range(120) if place % 31 not in (5, 6, 20)]
    times = [round(place / 30, 3) for place in kept]
    found = [kept[number] for number in numbers_in(decoded(timed_video(tmp_path / "v.mkv", times, *FAST)))]
    for k, place in enumerate(found):  # frame 2k, or the one that is shown instead
        assert place == max(there for there in kept if there <= 2 * k)


@pytest.mark.parametrize("container", ["flv", "mkv"])
@pytest.mark.parametrize("fps", ["15", "source"])
def test_two_recordings_one_behind_the_other(tmp_path: Path, container: str, fps: str) -> None:
    one, both = tmp_path / f"one.{container}", tmp_path / f"both.{container}"
    data = write_video(one, numbered(60), *FAST, fps=30).read_bytes()
    flv_header = 13
    both.write_bytes(data + data[flv_header if container == "flv" else 0 :])
    found = numbers_in(decoded(both, replace(DECODE, fps=fps)))
    assert found == list(range(0, 60, 1 if fps == "source" else 2)) * 2


@pytest.mark.parametrize("fps", ["15", "source"])
def test_times_before_zero(tmp_path: Path, fps: str) -> None:
    video = tmp_path / "v.mkv"
    early = ("-vf", "setpts=PTS-14/30/TB", "-fps_mode", "passthrough", "-avoid_negative_ts", "disabled")
    write_video(video, numbered(60), *early, *FAST, "-bf", 0, fps=30)
    found = numbers_in(decoded(video, replace(DECODE, fps=fps)))
    assert found == list(range(0, 60, 1 if fps == "source" else 2))


@pytest.mark.parametrize(
    ("rate", "count", "seconds", "frames"),
    [
        ("1", 12, 2.7, 41),
        ("3", 12, 1.0, 15),
        ("2", 12, 0.4, 6),
        ("25", 100, 2.0, 30),
        ("25", 100, 0.01, 1),
        ("25", 20, 2.0, 12),
        ("1/20", 2, 3.0, 45),  # the first frame lasts longer than the wanted part
    ],
)
def test_so_many_seconds_of_a_slow_video(tmp_path: Path, rate: str, count: int, seconds: float, frames: int) -> None:
    video = write_video(tmp_path / "v.mp4", numbered(count), *FAST, fps=rate)
    assert len(decoded(video, replace(DECODE, max_seconds=seconds))) == frames


def test_prep_says_which_videos_repeat_frames(tmp_path: Path) -> None:
    slow, quick = (write_video(tmp_path / f"{fps}.mp4", numbered(2 * fps), *FAST, fps=fps) for fps in (10, 30))
    prepped = prep_files(tmp_path, [slow, quick])
    note = (
        "1 of 2 videos have fewer than 15 frames a second: 33 % of their frames repeat the one before, and step-1 "
        "residuals there are nearly zero; a store made with --fps 10 has none"
    )
    assert f"note: {note}" in prepped.said
    assert note in prepped.result.notes
    summary = summarise(prepped.store)
    assert summary["repeated"]["avoiding_fps"] == 10
    found = numbers_in(prepped.store.read("v000", 0, 30))
    assert sum(one == next_one for one, next_one in pairwise(found)) == 10
    other = tmp_path / "other"
    other.mkdir()
    avoided = prep_files(other, [slow, quick], decode=replace(DECODE, fps="10"))
    assert summarise(avoided.store)["repeated"] is None
    assert "fewer than" not in avoided.said


def test_interlaced_frames_keep_their_places(tmp_path: Path) -> None:
    """The deinterlacer has another time base."""
    video = write_video(tmp_path / "v.mkv", numbered(60), "-vf", "setfield=tff", *FAST, "-flags", "+ilme+ildct", fps=30)
    assert numbers_in(decoded(video)) == list(range(0, 60, 2))


def test_a_log_over_the_limit_of_what_is_read_has_all_stamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_LOG_BYTES", 12_000)
    times = [*(np.arange(600) / 30).tolist(), *(20 + np.cumsum(np.linspace(0.01, 0.2, 40))).tolist()]
    found = numbers_in(decoded(timed_video(tmp_path / "v.mkv", times, *FAST)))
    assert found[-1] == 639, "the rate varies only at the end"
    assert len(found) == pytest.approx(15 * times[-1], abs=4)


@pytest.mark.skipif(not FIELD.is_dir(), reason="without the files of ../shared/field")
def test_files_from_the_field() -> None:
    assert len(decoded(FIELD / "two.flv")) == 60
    assert len(decoded(FIELD / "1fps.mp4", replace(DECODE, max_seconds=2.7))) == 41
    assert np.array_equal(decoded(FIELD / "bar.mkv"), decoded(FIELD / "bar.mp4"))
