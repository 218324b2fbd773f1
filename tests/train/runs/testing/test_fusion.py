"""Late fusion against sums by hand, and what is not fused."""

from dataclasses import replace

import numpy as np
import pytest
from tests.train.runs.testing.made import PROVENANCE, make

from resact.errors import UsageError
from resact.train.runs.testing.fusion import fuse
from resact.train.runs.testing.predictions import Predictions


def test_fusion_by_hand() -> None:
    first = make(logits=np.log([[[0.8, 0.2], [0.6, 0.4]], [[0.5, 0.5], [0.1, 0.9]]]).astype(np.float32), videos=2,
                 views=2, num_classes=2)  # fmt: skip
    second = make(logits=np.log([[[0.2, 0.8]], [[0.9, 0.1]]]).astype(np.float32), videos=2, views=1, num_classes=2)
    np.testing.assert_allclose(first.scores, [[0.7, 0.3], [0.3, 0.7]], atol=1e-7)
    np.testing.assert_allclose(fuse(first, second, 0.25), [[0.575, 0.425], [0.45, 0.55]], atol=1e-7)
    np.testing.assert_array_equal(fuse(first, second, 0), first.scores)
    np.testing.assert_array_equal(fuse(first, second, 1), second.scores)
    np.testing.assert_array_equal(fuse(first, first, 0.5), first.scores)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (make(videos=3), "4 and 3 of video_id"),
        (make(video_id=np.array(["v_0", "v_1", "v_2", "v_3"])), "video_id differ, first 'v_0"),
        (make(label=np.array([0, 1, 2, 4])), "label differ, first 3 and 4"),
        (make(classes=np.array([*"abcdef"])), "classes differ, first 'class 0' and 'a'"),
        (make(num_classes=7), "6 and 7 of classes"),
    ],
)
def test_other_videos_labels_or_classes_are_not_fused(other: Predictions, words: str) -> None:
    second = replace(other, provenance=replace(PROVENANCE, run="b"))
    with pytest.raises(UsageError, match=f"cannot fuse a and b: {words}"):
        fuse(make(), second, 0.5)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_beyond_one_is_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="got --weight"):
        fuse(make(), make(), weight)
