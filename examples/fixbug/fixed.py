"""Half-open intervals of minutes: an interval ends just before its end."""

from typing import Iterable, List, NamedTuple


class Interval(NamedTuple):
    start: int
    end: int


def merge(intervals: Iterable[Interval]) -> List[Interval]:
    """Return the same minutes in as few intervals as possible, in order."""
    merged: List[Interval] = []
    for interval in sorted(intervals):
        if merged and interval.start <= merged[-1].end:
            last = merged.pop()
            interval = Interval(last.start, max(last.end, interval.end))
        merged.append(interval)
    return merged


def free(busy: Iterable[Interval], day: Interval) -> List[Interval]:
    """Return the intervals of the day that are not busy, in order."""
    gaps = []
    start = day.start
    for interval in merge(busy):
        gaps.append(Interval(start, min(interval.start, day.end)))
        start = max(start, interval.end)
    gaps.append(Interval(start, day.end))
    return [gap for gap in gaps if gap.start < gap.end]
