"""Durations counted in buckets, log-linear: 16 for each doubling from 64 µs to 134 s.

The middle of a bucket is within 3.2 % of every duration in it, from 64 µs on; below, buckets are
4 µs wide, and what is beyond the last doubling shares one. `board.pyx` counts by the same rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

BUCKETS = 16 + 21 * 16 + 1
Pairs = list[tuple[int, int]]
"""(upper bound in microseconds, exclusive; how many) of buckets that are not empty, in order."""


def upper(index: int) -> int:
    """Microseconds; every duration in the bucket is below that."""
    if index < 16:
        return 4 * (index + 1)
    doubling, part = divmod(index - 16, 16)
    return (17 + part) << (doubling + 2)


def lower(above: int) -> int:
    """The lower bound of the bucket whose upper bound is `above`."""
    if above <= 64:
        return max(0, above - 4)
    return above - (1 << ((above - 1).bit_length() - 5))


def pairs(counts: Sequence[int]) -> Pairs:
    return [(upper(index), count) for index, count in enumerate(counts) if count]


def total(found: Iterable[Sequence[int]]) -> int:
    return sum(count for _, count in found)


def percentile(found: Sequence[Sequence[int]], part: float) -> int | None:
    """The duration (microseconds) that `part` (0 to 1) of those counted do not exceed, as the
    middle of its bucket; None where nothing was counted."""
    wanted = max(1, -(-int(total(found) * part * 1_000_000) // 1_000_000))
    seen = 0
    for above, count in found:
        seen += count
        if seen >= wanted:
            return (lower(above) + above) // 2
    return None


def since(now: Iterable[tuple[int, int]], before: Iterable[tuple[int, int]]) -> Pairs:
    """What was counted between two looks at the same histogram."""
    then = dict(before)
    gone = ((above, count - then.get(above, 0)) for above, count in now)
    return [(above, count) for above, count in gone if count > 0]


def below(found: Iterable[Sequence[int]], bound: int) -> int:
    """How many were shorter than `bound` microseconds, which is to be a bucket's bound."""
    return sum(count for above, count in found if above <= bound)
