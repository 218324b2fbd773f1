import pytest

from resact.bench.results import ratios, result_of


def test_ratios_are_those_of_the_same_round():
    assert ratios("of", [2.0, 9.0, 4.0], [1.0, 3.0, 8.0]) == {"of": 2.0, "of_min": 0.5, "of_max": 3.0}
    with pytest.raises(ValueError, match="zip"):
        ratios("of", [1.0], [1.0, 2.0])


def test_a_result_says_what_it_was_measured_with():
    result = result_of("prep", rows=[1])
    assert (result["benchmark"], result["rows"]) == ("prep", [1])
    assert result.keys() >= {"machine", "versions", "commit"}
