"""Free time in a calendar."""

from agenda.intervals import Interval, free, merge

__all__ = ["Interval", "free", "merge"]
