"""Options that take several names can name everything that a folder can be called."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resact.cache.names import as_option, names_in
from resact.errors import UsageError
from resact.pipeline.datasets.dataset import choose_classes

NAMES = st.text(st.sampled_from([*"ab ,\"\n\\'"]), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (None, None),
        ([""], []),
        (["Run,Walk"], ["Run", "Walk"]),
        ([" Run , Walk,"], ["Run", "Walk"]),
        (["Run", "Walk,Jump"], ["Run", "Walk", "Jump"]),
        (['Run,"Jump, high"'], ["Run", "Jump, high"]),
        (['"5"" disc, thrown" , Run'], ['5" disc, thrown', "Run"]),
        (['" a "'], [" a "]),
        (["q'uo\"te,new\nline"], ["q'uo\"te", "new\nline"]),
    ],
)
def test_names_with_commas_between_and_repeated_and_in_quotes(texts: list[str] | None, names: list[str] | None) -> None:
    assert names_in(texts) == names


@given(st.lists(NAMES, max_size=4))
def test_every_name_can_be_written(names: list[str]) -> None:
    assert names_in([",".join(map(as_option, names))]) == names
    assert names_in([as_option(name) for name in names]) == names


def test_a_part_of_a_name_with_a_comma_is_told_how_to_write_it() -> None:
    known = ["Jump, high", "Run"]
    with pytest.raises(UsageError, match="a name with a comma goes in double quotes, --classes ") as caught:
        choose_classes(known, names_in(["Run,Jump, high"]))
    written = shlex.split(str(caught.value).rpartition("--classes ")[2])
    assert choose_classes(known, names_in(written)) == ("Jump, high",)
