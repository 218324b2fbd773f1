from resact.bench.rounds import take_turns


def test_each_round_begins_with_the_next_one_and_all_go_once():
    turns = list(take_turns("abc", 4))
    assert "".join(who for _, who in turns) == "abcbcacababc"
    assert [number for number, _ in turns] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_nobody_takes_no_turns():
    assert list(take_turns([], 3)) == []
