"""Print a report about the free time in a calendar."""

import csv
import sys

from agenda.intervals import Interval, free, merge

WORKING_DAY = Interval(9 * 60, 17 * 60)


def minutes(clock: str) -> int:
    hours, _, rest = clock.partition(":")
    return int(hours) * 60 + int(rest)


def show(interval: Interval) -> str:
    times = (f"{minute // 60:02}:{minute % 60:02}" for minute in interval)
    return " to ".join(times)


def main(path: str) -> None:
    with open(path, newline="", encoding="utf-8") as file:
        busy = [Interval(minutes(row["start"]), minutes(row["end"])) for row in csv.DictReader(file)]
    print(f"# Free time in {path}\n")
    print(f"{len(busy)} appointments keep you busy for {len(merge(busy))} stretches of time. You are free:\n")
    for gap in free(busy, WORKING_DAY):
        print(f"- {show(gap)}, {gap.end - gap.start} minutes")


main(sys.argv[1])
