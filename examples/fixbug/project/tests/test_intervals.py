import unittest

from agenda import Interval, free, merge

DAY = Interval(0, 100)


class MergeTest(unittest.TestCase):
    def test_of_nothing_is_nothing(self):
        self.assertEqual(merge([]), [])

    def test_keeps_what_is_apart(self):
        self.assertEqual(merge([Interval(30, 40), Interval(0, 10)]), [Interval(0, 10), Interval(30, 40)])

    def test_joins_what_overlaps(self):
        self.assertEqual(merge([Interval(0, 20), Interval(10, 30)]), [Interval(0, 30)])

    def test_joins_what_lies_inside(self):
        self.assertEqual(merge([Interval(0, 50), Interval(10, 20)]), [Interval(0, 50)])

    def test_joins_what_touches(self):
        self.assertEqual(merge([Interval(0, 10), Interval(10, 20)]), [Interval(0, 20)])


class FreeTest(unittest.TestCase):
    def test_is_the_whole_day_without_appointments(self):
        self.assertEqual(free([], DAY), [DAY])

    def test_is_what_lies_between(self):
        self.assertEqual(free([Interval(20, 30), Interval(60, 100)], DAY), [Interval(0, 20), Interval(30, 60)])

    def test_is_nothing_when_the_day_is_full(self):
        self.assertEqual(free([Interval(0, 50), Interval(50, 100)], DAY), [])


if __name__ == "__main__":
    unittest.main()
