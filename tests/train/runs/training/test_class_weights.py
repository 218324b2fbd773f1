"""Classes of different sizes: weights of the loss, and sampling that takes classes alike."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.train.runs.conftest import assert_same_weights

from resact.errors import UsageError
from resact.train.runs.files.config import Recipe
from resact.train.runs.training.class_weights import class_weights, imbalance

INDEX = SimpleNamespace(label=np.repeat([0, 1, 2], [12, 6, 2]), classes=("Jump", "Run", "Walk"))
VIDEOS = np.arange(20)


def weights_of(tmp_path: Path, text: str | bytes, **recipe) -> tuple[float, ...]:
    path = tmp_path / "weights.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return class_weights(Recipe(class_weights=str(path), **recipe), INDEX, VIDEOS)


def test_balanced_is_n_over_classes_times_the_class_s_videos():
    assert class_weights(Recipe(class_weights="balanced"), INDEX, VIDEOS) == pytest.approx((20 / 36, 20 / 18, 20 / 6))
    assert class_weights(Recipe(), INDEX, VIDEOS) is None


def test_of_a_file_only_ratios_count(tmp_path):
    """Scaled so that an epoch's clips weigh 1 on the mean, whatever the sampling."""
    once = weights_of(tmp_path, "class,weight\nJump,1\nRun,2\nWalk,4\n")
    assert once == pytest.approx(np.array([1, 2, 4]) * 20 / (12 + 2 * 6 + 4 * 2))
    again = weights_of(tmp_path, "\ufeffWeight,Class\r\n4000,Walk\r\n\r\n1000,Jump\r\n2e3,Run\r\n")
    assert again == pytest.approx(once)
    assert weights_of(tmp_path, "class,weight\nJump,1\nRun,2\nWalk,4\n", sampling="balanced") == pytest.approx(
        (3 / 7, 6 / 7, 12 / 7)
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: got '', expected the columns class,weight"),
        ("name,weight\n", "line 1: got 'name,weight', expected the columns class,weight"),
        ("class,weight\nJump,1,2\n", "line 2: got 3 fields, expected 2"),
        ("class,weight\nJump,heavy\n", "line 2: got weight 'heavy', expected a number above 0"),
        ("class,weight\nJump,1\nRun,0\n", "line 3: got weight '0', expected a number above 0"),
        ("class,weight\nJump,inf\n", "got weight 'inf', expected a number above 0"),
        ("class,weight\nJump,1\nJump,1\n", "line 3: 'Jump' has a weight already"),
        ("class,weight\nJump,1\nHop,1\n", "the store has no class Hop, expected Jump, Run, Walk"),
        ("class,weight\nJump,1\n", "got no weight for Run, Walk: write a line for each"),
        (b"class,weight\nJ\xff,1\n", "not a CSV in UTF-8"),
    ],
)
def test_a_wrong_file_is_told(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        weights_of(tmp_path, text)


def test_a_missing_file_and_two_remedies_are_told(train_tiny, tmp_path):
    with pytest.raises(UsageError, match=r"got --class-weights balancd, which is no file, expected balanced or a CSV"):
        train_tiny(class_weights="balancd")
    assert not (tmp_path / "runs").exists(), "something was begun"
    with pytest.raises(UsageError, match="got --class-weights balanced and --sampling balanced, expected one"):
        Recipe(class_weights="balanced", sampling="balanced")


def test_uneven_classes_are_told_to_who_has_done_nothing_about_them():
    note = imbalance(Recipe(), INDEX, VIDEOS)
    assert note is not None
    assert "2 (Walk) to 12 (Jump) training videos: --sampling balanced or --class-weights balanced" in note
    assert imbalance(Recipe(sampling="balanced"), INDEX, VIDEOS) is None
    assert imbalance(Recipe(class_weights="balanced"), INDEX, VIDEOS) is None
    assert imbalance(Recipe(), INDEX, VIDEOS[6:]) is None, "6, 6 and 2 are not far apart"


def test_a_run_keeps_its_weights_and_needs_the_file_no_more(train_tiny, train_cut, tmp_path):
    path = tmp_path / "weights.csv"
    path.write_text("class,weight\nJump,1\nRun,2\nWalk,1\n")
    settings = {"epochs": 2, "class_weights": str(path)}
    train_tiny("whole", **settings)
    train_tiny("plain", epochs=2)
    cut = train_cut("cut", **settings)
    record = cut.read_record()
    assert record.class_weights == pytest.approx((0.75, 1.5, 0.75))
    assert type(record).from_text(record.to_text(), "") == record
    path.write_text("class,weight\nJump,1\nRun,3\nWalk,1\n")
    with pytest.raises(UsageError, match=r"weights\.csv has other weights than .*cut was started with"):
        train_tiny("cut", resume=True, class_weights=str(path))
    path.unlink()
    train_tiny("cut", resume=True)
    assert_same_weights(cut.path, tmp_path / "runs" / "whole")
    with pytest.raises(AssertionError):
        assert_same_weights(cut.path, tmp_path / "runs" / "plain")
