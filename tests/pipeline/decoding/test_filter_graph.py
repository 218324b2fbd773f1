"""The arguments that ffmpeg is given, and the frame rates that are taken."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resact.cache.settings import DecodeSettings
from resact.errors import ToolError, UsageError
from resact.pipeline.decoding.filter_graph import decode_arguments, parse_fps

SETTINGS = DecodeSettings(fps="15", short_side=256, max_seconds=None, ffmpeg="any")


def test_a_rule_of_a_newer_resact_is_refused() -> None:
    with pytest.raises(ToolError, match="made by rule 3, and this resact knows rules 1 to 2: install a newer resact"):
        decode_arguments("v.avi", replace(SETTINGS, rule=3), "rgb24", strict=True)


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_parse_fps_keeps_fractions_exact(numerator: int, denominator: int) -> None:
    if numerator / denominator <= 1000:
        assert Fraction(parse_fps(f"{numerator}/{denominator}")) == Fraction(numerator, denominator)


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "fast", "1/0", "2000", ""])
def test_parse_fps_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="expected a rate over 0"):
        parse_fps(text)
