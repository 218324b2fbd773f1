"""Taking turns: how all benchmarks compare competitors on one machine.

A machine's speed drifts, so competitors are not measured one after the other. In each round every competitor runs once,
each round starts with a different one, and ratios are computed per round.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

Competitor = TypeVar("Competitor")


def take_turns(competitors: Sequence[Competitor], rounds: int) -> Iterator[tuple[int, Competitor]]:
    """Yields the number of the round, from 0, and the competitor whose turn it is."""
    for number in range(rounds):
        first = number % max(1, len(competitors))
        for competitor in (*competitors[first:], *competitors[:first]):
            yield number, competitor
