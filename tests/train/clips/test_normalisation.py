import json
from dataclasses import asdict

import pytest
from tests.train.clips.random_clips import USUAL

from resact.errors import UsageError
from resact.train.clips.normalisation import Normalisation


def test_a_normalisation_outlives_json():
    assert Normalisation(**json.loads(json.dumps(asdict(USUAL)))) == USUAL
    alone = Normalisation(residual_mean=(1, 2, 3), residual_std=(4, 5, 6))
    assert Normalisation(**json.loads(json.dumps(asdict(alone)))) == alone
    assert isinstance(hash(Normalisation(**json.loads(json.dumps(asdict(alone))))), int)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rgb_mean": (1, 2, 3)}, "expected both or neither"),
        ({"rgb_mean": (1, 2, 3), "rgb_std": (1, 0, 1)}, "got rgb std"),
        ({"residual_mean": (1, 2), "residual_std": (1, 1)}, "got residual_mean"),
        ({"rgb_mean": (1, 2, float("nan")), "rgb_std": (1, 1, 1)}, "expected a finite number for each of the 3"),
    ],
)
def test_a_normalisation_that_is_none(fields, message):
    with pytest.raises(UsageError, match=message):
        Normalisation(**fields)
