"""Taking turns: how every benchmark here compares things on one machine.

A machine's speed drifts, so nothing is measured first and then the other. In each round every competitor goes once,
each round begins with another one, and ratios are taken round by round.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

Competitor = TypeVar("Competitor")


def take_turns(competitors: Sequence[Competitor], rounds: int) -> Iterator[tuple[int, Competitor]]:
    """Number of the round, from 0 on, and whose turn it is."""
    for number in range(rounds):
        first = number % max(1, len(competitors))
        for competitor in (*competitors[first:], *competitors[:first]):
            yield number, competitor
