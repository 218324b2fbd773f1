import io

import pytest
from rich.console import Console

from resact.bench.comparison import print_rows, ratios, result_of, take_turns


def test_each_round_begins_with_the_next_one_and_all_go_once():
    turns = list(take_turns("abc", 4))
    assert "".join(who for _, who in turns) == "abcbcacababc"
    assert [number for number, _ in turns] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert list(take_turns([], 3)) == []


def test_ratios_are_those_of_the_same_round():
    assert ratios("of", [2.0, 9.0, 4.0], [1.0, 3.0, 8.0]) == {"of": 2.0, "of_min": 0.5, "of_max": 3.0}
    with pytest.raises(ValueError, match="zip"):
        ratios("of", [1.0], [1.0, 2.0])


def test_a_result_says_what_it_was_measured_with():
    result = result_of("prep", rows=[1])
    assert (result["benchmark"], result["rows"]) == ("prep", [1])
    assert result.keys() >= {"machine", "versions", "commit"}


def test_names_stand_on_the_left_and_numbers_on_the_right():
    text, rows = io.StringIO(), [{"name": "slow", "rate": 1.5}, {"name": "quickest", "rate": 1234.5}]
    columns = {"": lambda row: row["name"], "a second": "{rate:,.1f}"}
    print_rows(Console(file=text, width=60), rows, columns, title="speed", footer={"name": "all", "rate": 1236})
    title, heading, *rest = [line.rstrip() for line in text.getvalue().splitlines()]
    assert title.strip() == "speed"
    assert heading == "         a second"
    assert rest == ["slow          1.5", "quickest  1,234.5", "all       1,236.0"]
