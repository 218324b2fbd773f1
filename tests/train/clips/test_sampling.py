"""Which clips: a pure function of seed, epoch and position, exactly as docs/clips.md says."""

import pickle
from collections import Counter
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resact.errors import UsageError
from resact.train.clips import sampling
from resact.train.clips.geometry import SCALES, ClipGeometry
from resact.train.clips.sampling import Clip, TestPlan, TrainPlan, batches

few = settings(max_examples=60)
seeds = st.integers(0, 2**63 - 1)


def index_of(num_frames, height=256, width=340):
    """The columns of a store's index that a plan reads."""
    count = len(num_frames)
    return SimpleNamespace(
        num_frames=np.array(num_frames, np.uint32),
        height=np.full(count, height, np.uint32),
        width=np.full(count, width, np.uint32),
    )


def train_plan(num_frames, seed=0, *, flip=True, size=(256, 340), **geometry):
    index = index_of(num_frames, *size)
    return TrainPlan(index, np.arange(len(num_frames)), ClipGeometry(**geometry), seed=seed, flip=flip)


def as_tuple(clip: Clip):
    return (clip.video_index, clip.start, clip.stop, clip.top, clip.left, clip.side, clip.flip, tuple(clip.order))


geometries = st.builds(
    ClipGeometry,
    modality=st.sampled_from(["rgb", "residual", "both"]),
    frames=st.integers(6, 40),
    step=st.integers(1, 5),
    short_clips=st.sampled_from(["mirror", "loop", "hold"]),
)


@given(seed=seeds, geometry=geometries, lengths=st.lists(st.integers(1, 90), min_size=1, max_size=8), data=st.data())
@few
def test_every_clip_lies_within_its_video(seed, geometry, lengths, data):
    height, width = data.draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    plan = TrainPlan(index_of(lengths, height, width), np.arange(len(lengths)), geometry, seed=seed, flip=True)
    for position in range(len(plan)):
        clip = plan.clip(data.draw(st.integers(0, 1000)), position)
        assert 0 <= clip.start < clip.stop <= lengths[clip.video_index]
        assert len(clip.order) == geometry.frames_read
        assert 0 <= clip.order.min() <= clip.order.max() < clip.stop - clip.start
        assert set(clip.order) == set(range(clip.stop - clip.start)), "a frame is read that is not shown"
        assert 0 <= clip.top <= clip.top + clip.side <= height
        assert 0 <= clip.left <= clip.left + clip.side <= width
        assert clip.side >= 1


@given(seed=seeds, epoch=st.integers(0, 10_000), count=st.integers(1, 300))
@few
def test_an_epoch_draws_each_video_once_in_another_order(seed, epoch, count):
    plan = train_plan([40] * count, seed)
    video_indices = [plan.clip(epoch, position).video_index for position in range(count)]
    assert sorted(video_indices) == list(range(count))
    if count > 20:
        assert video_indices != [plan.clip(epoch + 1, position).video_index for position in range(count)]


def balanced_plan(labels, seed=0, lengths=None):
    index = index_of(lengths or [40] * len(labels))
    index.label = np.array(labels, np.int32)
    return TrainPlan(index, np.arange(len(labels)), ClipGeometry(), seed=seed, flip=True, sampling="balanced")


@pytest.mark.parametrize(
    "plan_of", [partial(train_plan, range(30, 90)), partial(balanced_plan, [0] * 20 + [1] * 5 + [2] * 3)]
)
def test_a_clip_depends_on_nothing_but_seed_epoch_and_position(plan_of):
    count = len(plan_of())
    forwards = [as_tuple(plan_of(seed=7).clip(3, p)) for p in range(count)]
    assert len(set(forwards)) == count, "a video that comes again is another clip"
    plan = plan_of(seed=7)
    for p in np.random.default_rng(0).permutation(count).tolist():
        plan.clip(5, p)  # whatever was asked for before
        assert as_tuple(plan.clip(3, p)) == forwards[p]
    assert [as_tuple(plan_of(seed=8).clip(3, p)) for p in range(count)] != forwards
    assert {plan.clip(epoch, p).video_index for epoch in range(12) for p in range(count)} == set(range(count))


@given(seed=seeds, epoch=st.integers(0, 10_000), labels=st.lists(st.integers(0, 4), min_size=1, max_size=60))
@few
def test_balanced_sampling_takes_classes_alike_and_of_a_class_each_video_alike(seed, epoch, labels):
    plan = balanced_plan(labels, seed)
    assert len(plan) == len(labels), "an epoch has another length"
    taken = Counter(plan.clip(epoch, position).video_index for position in range(len(plan)))
    share = len(labels) / len(set(labels))
    for label in set(labels):
        counts = [taken[video] for video, other in enumerate(labels) if other == label]
        assert sum(counts) in (int(share), -int(-share // 1))
        assert max(counts) - min(counts) <= 1


def test_the_balanced_plan_of_a_seed_is_frozen():
    plan = balanced_plan([0, 0, 0, 0, 1, 1, 2], seed=1)
    assert [plan.clip(2, p).video_index for p in range(7)] == [6, 5, 1, 4, 6, 3, 0]


def test_the_padded_share_of_balanced_sampling_is_that_of_what_is_drawn():
    assert balanced_plan([0, 0, 0, 0, 1], lengths=[10, 90, 90, 90, 10]).padded_share == (1 / 4 + 1) / 2


def test_the_plan_of_a_seed_is_frozen():
    """A change here changes every run: resumed runs would continue with other clips."""
    plan = train_plan([40, 50, 60, 70], seed=1)
    assert [as_tuple(plan.clip(2, p))[:-1] for p in range(4)] == [
        (0, 7, 40, 0, 42, 256, True),
        (3, 13, 46, 0, 212, 128, True),
        (1, 8, 41, 75, 159, 181, True),
        (2, 20, 53, 75, 159, 181, False),
    ]


@pytest.mark.parametrize(
    ("seed", "epoch", "position", "expected"),
    [
        (0, 0, 0, (998, 22, 32, 104, 188, 152, False)),
        (0, 1, 1, (468, 1, 11, 0, 84, 256, False)),
        (1, 2, 3, (414, 19, 29, 75, 159, 181, False)),
        (12345678901234567, 0, 500, (343, 0, 10, 41, 125, 215, False)),
        (7, 2**40, 999, (64, 14, 24, 41, 125, 215, True)),
        (2**63 - 1, 10**6, 999, (731, 12, 22, 41, 125, 215, True)),
    ],
)
def test_so_it_is_for_large_seeds_epochs_and_plans(seed, epoch, position, expected):
    plan = train_plan([5 + 7 * number % 61 for number in range(1000)], seed, frames=8, step=2)
    assert as_tuple(plan.clip(epoch, position))[:-1] == expected


@given(seed=seeds, purpose=st.integers(0, 9), epoch=st.integers(0, 2**63 - 1), position=st.integers(0, 2**63 - 1))
@few
def test_random_words_are_numpys(seed, purpose, epoch, position):
    numpys = np.random.Philox(key=[seed, purpose], counter=[0, position, epoch, 0])
    assert list(sampling.random_words(seed, purpose, epoch, position)) == numpys.random_raw(4).tolist()


def test_starts_scales_corners_and_flips_are_uniform():
    plan = train_plan([40] * 50, modality="residual", frames=32, step=1)
    clips = [plan.clip(epoch, position) for epoch in range(80) for position in range(50)]
    sides = [round(256 * scale) for scale in SCALES]
    assert sides == [256, 215, 181, 152, 128]
    corners = Counter(
        (clip.top > 0, clip.left > 0, clip.top in (0, 256 - clip.side)) for clip in clips if clip.side < 256
    )
    places = [(False, False, True), (False, True, True), (True, False, True), (True, True, True), (True, True, False)]
    for counts, kinds in (
        (Counter(clip.start for clip in clips), range(8)),
        (Counter(clip.side for clip in clips), sides),
        (Counter(clip.flip for clip in clips), (False, True)),
        (corners, places),
    ):
        expected = sum(counts.values()) / len(kinds)
        assert set(counts) == set(kinds)
        chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
        assert chi_square < 40  # 1 in 10^5 at the 7 degrees of freedom of the starts; the plan is fixed: no flake
    assert {c.left for c in clips if c.side == 128} == {0, 212, 106}
    pairs = Counter((clip.side, clip.flip) for clip in clips)
    assert min(pairs.values()) > 300, "scale and flip hang together"


@pytest.mark.parametrize(("min_scale", "sides"), [(1, {256}), (0.8, {256, 215}), (0.51, {256, 215, 181, 152})])
def test_no_crop_below_the_smallest_scale(min_scale, sides):
    plan = train_plan([40] * 50, min_scale=min_scale)
    assert {plan.clip(epoch, position).side for epoch in range(4) for position in range(50)} == sides


@pytest.mark.parametrize("wrong", [0.49, 1.01, 0, "1", True, float("nan")])
def test_a_wrong_smallest_scale_is_a_usage_error(wrong):
    with pytest.raises(UsageError, match=r"got --min-scale .*, expected a number from 0\.5 to 1"):
        ClipGeometry(min_scale=wrong)


def test_no_flip():
    plan = train_plan([40] * 50, flip=False)
    assert not any(plan.clip(0, position).flip for position in range(50))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mirror", [0, 1, 2, 3, 2, 1, 0, 1, 2]),
        ("loop", [0, 1, 2, 3, 0, 1, 2, 3, 0]),
        ("hold", [0, 1, 2, 3, 3, 3, 3, 3, 3]),
    ],
)
def test_short_videos_are_continued(kind, expected):
    for plan in (
        train_plan([4], modality="both", frames=7, step=2, short_clips=kind),
        TestPlan(index_of([4]), np.arange(1), ClipGeometry(modality="both", frames=7, step=2, short_clips=kind)),
    ):
        clip = plan.clip(0, 0)
        assert (clip.start, clip.stop) == (0, 4)
        assert clip.order.tolist() == expected


@pytest.mark.parametrize("kind", ["mirror", "loop", "hold"])
def test_a_video_of_one_frame_stands_still(kind):
    assert train_plan([1], frames=4, step=3, short_clips=kind).clip(0, 0).order.tolist() == [0] * 7


def test_rgb_alone_reads_no_frames_for_residuals():
    assert ClipGeometry(modality="rgb", frames=32, step=4).frames_read == 32
    assert ClipGeometry(modality="residual", frames=32, step=4).frames_read == 36
    assert ClipGeometry(modality="both", frames=32, step=1).frames_read == 33


@given(length=st.integers(1, 200), frames=st.integers(2, 40), step=st.integers(1, 4), views=st.integers(1, 12))
@few
def test_the_test_plan_has_uniform_starts_and_the_centre(length, frames, step, views):
    step = min(step, frames - 1)
    plan = TestPlan(
        index_of([50, length], 256, 340), np.array([1]), ClipGeometry(frames=frames, step=step), views=views
    )
    assert len(plan) == views
    clips = [plan.clip(0, position) for position in range(views)]
    last = max(0, length - frames - step)
    exact = [Fraction(last * view, max(1, views - 1)) for view in range(views)]
    assert [clip.start for clip in clips] == [int(start + Fraction(1, 2)) for start in exact]  # numpy.linspace, rounded
    assert all(
        (clip.video_index, clip.top, clip.left, clip.side, clip.flip) == (1, 0, 42, 256, False) for clip in clips
    )


def test_ten_views_of_the_paper_by_hand():
    plan = TestPlan(index_of([113]), np.arange(1), ClipGeometry(frames=32, step=1))
    assert [plan.clip(0, view).start for view in range(10)] == [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]


@given(count=st.integers(1, 200), batch=st.integers(1, 40), world=st.integers(1, 5), position=st.integers(0, 200))
@few
def test_ranks_divide_an_epoch_without_overlap_or_loss_and_resume_gives_the_rest(count, batch, world, position):
    whole = [list(batches(count, batch, rank=r, world_size=world)) for r in range(world)]
    assert len({len(steps) for steps in whole}) == 1, "ranks take different numbers of steps"
    flat = [p for step in zip(*whole, strict=True) for part in step for p in part]
    assert flat == list(range(count))
    for step in zip(*whole, strict=True):
        sizes = [len(part) for part in step]
        assert max(sizes) <= batch
        assert max(sizes) - min(sizes) <= 1
    rest = [list(batches(count, batch, rank=r, world_size=world, position=position)) for r in range(world)]
    assert [p for step in zip(*rest, strict=True) for part in step for p in part] == list(range(position, count))
    ends = [step[-1].stop for step in zip(*whole, strict=True)]
    if position in ends:
        done = ends.index(position) + 1
        assert rest == [steps[done:] for steps in whole]


def test_no_batch_is_a_small_rest():
    assert [len(part) for part in batches(9, 4)] == [3, 3, 3]
    assert [len(part) for part in batches(483, 32)].count(30) + [len(part) for part in batches(483, 32)].count(31) == 16


def test_the_padded_share_counts_clips_longer_than_their_video():
    assert train_plan([32, 33, 34, 90], frames=32, step=1).padded_share == 0.25
    assert train_plan([32, 33, 34, 90], frames=32, step=4).padded_share == 0.75
    assert train_plan([32, 33, 34, 90], modality="rgb", frames=32, step=4).padded_share == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"frames": 0}, "got --frames 0, expected a whole number from 1 to 65,536"),
        ({"step": 0}, "got --step 0"),
        ({"step": 32}, "got --step 32, expected one below the 32 frames of a clip"),
        ({"size": 1.5}, "got --size 1.5"),
        ({"frames": True}, "got --frames True"),
        ({"modality": "depth"}, "got --modality 'depth', expected rgb, residual or both"),
        ({"short_clips": "drop"}, "got --short-clips 'drop', expected mirror, loop or hold"),
    ],
)
def test_a_wrong_geometry_is_told(wrong, words):
    with pytest.raises(UsageError, match=words):
        ClipGeometry(**wrong)


def test_wrong_plans_are_told():
    index, geometry = index_of([40]), ClipGeometry()
    with pytest.raises(UsageError, match="got no videos"):
        TrainPlan(index, np.arange(0), geometry, seed=0, flip=False)
    with pytest.raises(UsageError, match="got seed -1, expected"):
        TrainPlan(index, np.arange(1), geometry, seed=-1, flip=False)
    with pytest.raises(UsageError, match="got seed 9223372036854775808, expected"):
        TrainPlan(index, np.arange(1), geometry, seed=2**63, flip=False)
    with pytest.raises(UsageError, match="got sampling 'even', expected one of uniform, balanced"):
        TrainPlan(index, np.arange(1), geometry, seed=0, flip=False, sampling="even")
    with pytest.raises(UsageError, match="got 0 views"):
        TestPlan(index, np.arange(1), geometry, views=0)
    for position in (-1, 1):
        with pytest.raises(UsageError, match=f"got position {position}, expected 0 <= position < 1"):
            train_plan([40]).clip(0, position)


@pytest.fixture
def shuffles(monkeypatch):
    """Seed, epoch and length of each order that is made."""
    made, original = [], sampling._shuffled
    monkeypatch.setattr(sampling, "_shuffled", lambda *arguments: made.append(arguments) or original(*arguments))
    return made


def test_drawing_from_a_million_videos_costs_what_drawing_from_a_thousand_does(shuffles):
    """Counted, not timed: only the epoch's order is ever made, once."""
    plan = train_plan([40] * 1_000_000)
    assert sorted(plan.clip(0, p).video_index for p in (0, 17, 999_999)) != [0, 17, 999_999]
    for position in range(0, 1_000_000, 10_000):
        plan.clip(0, position)
    assert shuffles == [(0, 0, 1_000_000)]


def test_plans_used_in_turn_make_their_orders_once_an_epoch(shuffles):
    plans = [train_plan([40] * 50, seed) for seed in range(6)]
    for epoch in range(3):
        for position in range(50):
            for plan in plans:
                plan.clip(epoch, position)
    assert shuffles == [(seed, epoch, 50) for epoch in range(3) for seed in range(6)]


def test_a_plan_keeps_nothing_of_other_videos():
    index = index_of(range(1, 100_001))
    video_indices = np.random.default_rng(0).choice(100_000, 100, replace=False)
    for plan in (
        TrainPlan(index, video_indices, ClipGeometry(), seed=0, flip=True),
        TestPlan(index, video_indices, ClipGeometry()),
    ):
        unused = len(pickle.dumps(plan))
        clips = [as_tuple(plan.clip(3, position)) for position in range(len(plan))]
        message = pickle.dumps(plan)
        assert len(message) == unused < 4000
        again = pickle.loads(message)
        assert [as_tuple(again.clip(3, position)) for position in range(len(again))] == clips
        assert again.padded_share == plan.padded_share
