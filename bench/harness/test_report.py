"""python3 -m unittest discover -s bench"""

import unittest

from . import report
from .figures import CPU, P50, RUNS, Ratio, compared, mean_ratio
from .systems import ALL, measured_with, turns


def row(system, number, runs_per_s, clients=16, **others):
    figures = {"runs_per_s": runs_per_s, "p50_ms": 10.0, "p99_ms": 20.0, "system_cpu_ms": 1.0, "stores_cpu_ms": 0.5}
    named = {"system": system, "title": system.title(), "clients": clients, "round": number, "has_stores": True}
    return named | figures | {"system_rss_mib": 50.0, "errors": 0, "errors_before": 0, "error_kinds": {}} | others


class Ratios(unittest.TestCase):
    def test_the_mean_is_of_logarithms_and_the_interval_is_students(self):
        ratio = mean_ratio([0.5, 1.0, 2.0])
        self.assertAlmostEqual(ratio.mean, 1.0)
        # Logarithms to base 2: mean 0, deviation 1; 4.303 / sqrt(3) = 2.4843.
        self.assertAlmostEqual(ratio.high, 2**2.4843, places=3)
        self.assertAlmostEqual(ratio.low * ratio.high, 1.0)

    def test_one_round_has_no_interval_and_none_has_no_ratio(self):
        self.assertEqual(mean_ratio([0.8]), Ratio(0.8))
        self.assertIsNone(mean_ratio([]))

    def test_more_rounds_than_the_table_knows_get_the_interval_of_its_last(self):
        self.assertTrue(mean_ratio([0.9, 1.1] * 20).level)

    def test_rounds_are_paired_so_a_slow_round_says_nothing(self):
        ours = [row("embedded", 1, 100), row("embedded", 2, 50), row("embedded", 3, 200)]
        peer = [row("restate", 3, 100), row("restate", 1, 50), row("restate", 2, 25), row("restate", 4, 999)]
        ratio = compared(peer, ours, RUNS)
        self.assertAlmostEqual(ratio.low, 0.5)
        self.assertAlmostEqual(ratio.high, 0.5)

    def test_a_figure_that_is_missing_has_no_ratio(self):
        ratio = compared([row("restate", 1, 50, p50_ms=None)], [row("embedded", 1, 50)], P50)
        self.assertIsNone(ratio)

    def test_who_is_ahead_depends_on_the_figure(self):
        more, less, level = Ratio(2.0, 1.5, 2.5), Ratio(0.5, 0.4, 0.6), Ratio(1.1, 0.9, 1.3)
        self.assertEqual([more.ours(RUNS), less.ours(RUNS), level.ours(RUNS)], ["behind", "ahead", "level"])
        self.assertEqual([more.ours(CPU), less.ours(CPU), level.ours(CPU)], ["ahead", "behind", "level"])
        self.assertEqual([Ratio(1.1).ours(CPU), Ratio(1.0).ours(CPU)], ["ahead", "level"])


class Tables(unittest.TestCase):
    def rows(self):
        for number, (ours, restate) in enumerate([(100, 50), (110, 56), (90, 44)], 1):
            yield row("embedded", number, ours)
            yield row("restate", number, restate)
            yield row("bare", number, 2 * ours)

    def test_figures_are_medians(self):
        lines = report.measured([*self.rows()]).splitlines()
        self.assertIn("| 16 | Embedded | 100 ", lines[2])
        self.assertTrue(lines[2].endswith("| 0      | 3      |"), lines[2])

    def test_a_ratio_is_marked_where_no_difference_is_shown(self):
        rows = [*self.rows(), row("dbos", 1, 100), row("dbos", 2, 100), row("dbos", 3, 100)]
        text = report.ratios(rows, "embedded")
        self.assertIn("| 0.50× (0.47–0.53)", text)
        self.assertIn("| ≈ 1.00× (0.78–1.29)", text)
        self.assertIn("Bare", text)

    def test_cells_in_which_we_are_not_ahead_are_named(self):
        rows = [*self.rows(), row("embedded", 1, 100, clients=64), row("restate", 1, 50, clients=64)]
        rows += [row("embedded", number, 100, clients=1024, p50_ms=30.0) for number in (1, 2)]
        [line] = report.not_ahead(rows).splitlines()[2:]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        unmeasured = "64 one round only, 1,024 not measured"
        self.assertEqual(cells, ["Embedded", "Restate", unmeasured, *[f"16 level, {unmeasured}"] * 3])

    def test_one_round_alone_is_taken_at_its_word(self):
        rows = [row("embedded", 1, 100), row("restate", 1, 50, p99_ms=19.0), row("bare", 1, 200)]
        [line] = report.not_ahead(rows).splitlines()[2:]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        self.assertEqual(cells, ["Embedded", "Restate", "none", "16 level", "16 level", "16 behind"])
        self.assertTrue(report.whole(rows).startswith("One round:"))

    def test_nothing_measured_is_no_fault_of_the_report(self):
        self.assertIn("runs/s", report.whole([]))


class Problems(unittest.TestCase):
    def test_a_clean_sitting_has_none(self):
        self.assertEqual(report.problems([row("dbos", 1, 5)], [], {}), [])

    def test_errors_count_wherever_they_are_and_turns_that_failed_are_named(self):
        rows = [row("dbos", 2, 5, errors_before=3, error_kinds={"500": 3})]
        failed = [{"system": "restate", "title": "Restate", "clients": 1024, "round": 1, "failed": "not ready:\nits log"}]
        self.assertEqual(report.problems(rows, failed, {"langgraph": "no network"}), [
            "langgraph is missing: no network",
            "Restate, C = 1,024, round 1: no figures: not ready:",
            "Dbos, C = 16, round 2: 0 errors, and 3 in the warm-up: 3 × 500",
        ])


class Turns(unittest.TestCase):
    def test_every_system_has_its_turn_and_the_second_of_two_rounds_mirrors_the_first(self):
        systems = list("abcdefg")
        for number in range(1, 20, 2):
            self.assertEqual(turns(systems, number + 1), turns(systems, number)[::-1])
            self.assertEqual(sorted(turns(systems, number)), systems)

    def test_nobody_always_comes_first(self):
        self.assertEqual(["".join(turns(list("abcdefg"), n)) for n in (1, 2, 3)], ["abcdefg", "gfedcba", "efgabcd"])
        for count in range(2, 8):
            first = [turns(list(range(count)), number)[0] for number in (1, 2, 3)]
            self.assertGreater(len(set(first)), 1, count)
        self.assertEqual(turns(["a"], 3), ["a"])

    def test_who_would_not_answer_in_time_has_no_turn(self):
        self.assertEqual(measured_with(256, ALL), ALL)
        left_out = set(ALL) - set(measured_with(257, ALL))
        self.assertEqual({system.name for system in left_out}, {"dbos-streams"})


if __name__ == "__main__":
    unittest.main()
