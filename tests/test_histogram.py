"""Durations in buckets: the rule of `histogram`, which the board counts by."""

from __future__ import annotations

import random

import pytest

from sockd import board, histogram


def test_the_buckets_follow_each_other():
    bounds = [histogram.upper(index) for index in range(histogram.BUCKETS)]
    assert bounds == sorted(set(bounds))
    assert [histogram.lower(above) for above in bounds] == [0, *bounds[:-1]]


def test_the_board_counts_by_this_rule():
    chance = random.Random(8)
    some = [int(2 ** chance.uniform(0, 27)) for _ in range(5000)]
    bounds = [histogram.upper(index) for index in range(histogram.BUCKETS)]
    for usec in [0, *some, *(bound - 1 for bound in bounds[:-1]), *bounds[:-1]]:
        index = board.bucket(usec)
        assert histogram.lower(bounds[index]) <= usec < bounds[index]
    assert board.bucket(1 << 40) == histogram.BUCKETS - 1


def test_the_error_is_small():
    usec = 100
    while usec < 100_000_000:
        above = histogram.upper(board.bucket(usec))
        middle = (histogram.lower(above) + above) // 2
        assert abs(middle - usec) <= 0.05 * usec
        usec = usec * 1001 // 1000 + 1


@pytest.mark.parametrize(
    ("part", "expected"), [(0, 1), (0.005, 1), (0.5, 50), (0.9, 90), (0.99, 99), (1, 100)]
)
def test_percentiles_are_nearest_ranks(part: float, expected: int):
    counts = [0] * histogram.BUCKETS
    for rank in range(1, 101):
        counts[rank + 100] += 1
    found = histogram.percentile(histogram.pairs(counts), part)
    above = histogram.upper(expected + 100)
    assert found == (histogram.lower(above) + above) // 2


def test_of_nothing():
    assert histogram.percentile([], 0.5) is None


def test_what_came_since():
    assert histogram.since([(64, 3), (68, 1), (72, 2)], [(64, 1), (68, 1)]) == [(64, 2), (72, 2)]
    assert histogram.below([(64, 3), (68, 1)], 64) == 3
