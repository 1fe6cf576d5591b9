"""python3 -m unittest discover -s grafana"""

import contextlib
import io
import json
import pathlib
import tempfile
import unittest

import check_dashboard as check

METRICS = """\
# HELP runs_total Runs.
# TYPE runs_total counter
runs_total{agent="a",status="completed"} 3
runs_total{agent="b}\\"c",status="failed"} 1 1700000000
# HELP wait_seconds Wait.
# TYPE wait_seconds histogram
wait_seconds_bucket{le="1"} 2
wait_seconds_bucket{le="+Inf"} 2
wait_seconds_sum 0.5
wait_seconds_count 2
# HELP silent_total Announced only.
# TYPE silent_total counter
depth 0
"""
DASHBOARD = pathlib.Path(__file__).parent / "dashboards" / "steadfast.json"


def asked(query):
    return {selector.metric: selector.labels for selector in check.selectors(query)}


class Queries(unittest.TestCase):
    def test_metrics_are_told_from_functions_keywords_and_labels(self):
        for query, expected in {
            "depth": {"depth": set()},
            "1 + 2e3 * 5m": {},
            'sum by (agent) (rate(runs_total{status="x",z=~"$agent"}[$__rate_interval]))':
                {"runs_total": {"agent", "status", "z"}},
            "sum(a) by (b) / on(c) group_left(d) count without (e) (f)": {"a": {"b"}, "f": {"e"}},
            "histogram_quantile(0.9, sum by (le, x) (rate(h_bucket[5m:1m] offset 5m)))": {"h_bucket": {"le", "x"}},
            "max(max by (a) (m)) or vector(0) unless bool_metric": {"m": {"a"}, "bool_metric": set()},
            "topk(3, m{}) > bool 1 # sum(n)": {"m": set()},
            "increase(m[$__range]) and m2 == bool m3": {"m": set(), "m2": set(), "m3": set()},
            '{job="x"}': None,
            "sum(m": None,
            "sum(m))": None,
            "m{a}": None,
            "m[5m": None,
        }.items():
            with self.subTest(query):
                if expected is None:
                    self.assertRaises(check.Unreadable, check.selectors, query)
                else:
                    self.assertEqual(asked(query), expected)

    def test_alerts_are_read_with_expressions_of_one_line_and_of_many(self):
        text = """groups:
  - name: a
    rules:
      - alert: One
        expr: max(depth) > 1
        for: 1m
      - alert: Two
        expr: |
          sum(runs_total{status="failed"})
            / sum(nowhere) > 1
        labels: { severity: page }
      - alert: Three
        expr: up{job="x"} == 0 or absent(up)
"""
        found = list(check.alerts(text))
        self.assertEqual([name for name, _ in found], ["alert One", "alert Two", "alert Three"])
        metrics = check.samples(METRICS)
        self.assertEqual([bool(check.faults(expression, metrics)) for _, expression in found], [False, True, False])
        self.assertIn("no sample of metric nowhere", check.faults(found[1][1], metrics)[0])

    def test_every_alert_has_its_runbook_and_every_runbook_its_alert(self):
        root = DASHBOARD.parent.parent.parent
        names = [name.split()[1] for name, _ in check.alerts((root / "deploy/prometheus/alerts.yml").read_text())]
        runbook = (root / "docs/reliability/runbooks.md").read_text().splitlines()
        headings = [line[3:].strip() for line in runbook if line.startswith("## ")]
        self.assertGreater(len(names), 10)
        self.assertEqual(sorted(names), sorted(headings))

    def test_a_variable_asks_for_its_label(self):
        (selector,) = check.read("label_values(runs_total, agent)")
        self.assertEqual((selector.metric, selector.labels), ("runs_total", {"agent"}))


class Faults(unittest.TestCase):
    found = check.samples(METRICS)

    def test_samples_are_read_with_every_value_of_their_labels(self):
        self.assertEqual(self.found["runs_total"]["agent"], {"a", 'b}\\"c'})
        self.assertNotIn("silent_total", self.found)

    def test_what_is_there_is_found(self):
        for query in (
            'sum by (agent) (rate(runs_total{status="completed",job="x"}[5m]))',
            "rate(wait_seconds_sum[5m]) / rate(wait_seconds_count[5m])",
            "histogram_quantile(0.5, sum by (le) (rate(wait_seconds_bucket[5m])))",
            'runs_total{status=~"complet.*|nothing"}',
        ):
            self.assertEqual(check.faults(query, self.found), [], query)

    def test_what_is_not_there_is_named(self):
        for query, words in {
            "absent_total": "no sample of metric absent_total",
            "silent_total": "no sample of metric silent_total",
            "rate(wait_seconds[5m])": "use _bucket, _sum or _count",
            "sum by (model) (runs_total)": "runs_total has no label model; it has: agent, status",
            'runs_total{status="done"}': "runs_total has no status='done'; its values are: completed, failed",
            "1 + 1": "names no metric",
            "sum(": "does not read",
        }.items():
            self.assertIn(words, " ".join(check.faults(query, self.found)), query)


class Program(unittest.TestCase):
    def run_on(self, panels, metrics):
        with tempfile.TemporaryDirectory() as folder:
            dashboard, exposition = pathlib.Path(folder, "d.json"), pathlib.Path(folder, "m.txt")
            dashboard.write_text(json.dumps({"panels": panels}), encoding="utf-8")
            exposition.write_text(metrics, encoding="utf-8")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                code = check.main([str(dashboard), str(exposition)])
            return code, out.getvalue()

    def test_the_exit_code_says_whether_every_query_is_answered(self):
        good = {"title": "Good", "targets": [{"refId": "A", "expr": "depth"}]}
        bad = {"type": "row", "panels": [{"title": "Bad", "targets": [{"refId": "B", "expr": "sum(nope)"}]}]}
        self.assertEqual(self.run_on([good], METRICS)[0], 0)
        code, said = self.run_on([good, bad], METRICS)
        self.assertEqual(code, 1)
        self.assertIn("panel 'Bad', query B: sum(nope)\n    no sample of metric nope", said)
        self.assertEqual(self.run_on([], METRICS)[0], 1, "a dashboard without queries shows nothing")

    def test_wrong_use_is_told_from_a_wrong_dashboard(self):
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(check.main([]), 2)
            self.assertEqual(check.main(["/absent.json", "/absent.txt"]), 2)


class TheDashboard(unittest.TestCase):
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))

    def test_every_query_reads_and_names_a_metric(self):
        asked = list(check.queries(self.dashboard))
        self.assertGreater(len(asked), 30)
        for where, query in asked:
            self.assertTrue(check.read(query), where)

    def test_panels_have_ids_of_their_own_and_do_not_overlap(self):
        panels = self.dashboard["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        cells = set()
        for panel in panels:
            grid = panel["gridPos"]
            for x in range(grid["x"], grid["x"] + grid["w"]):
                for y in range(grid["y"], grid["y"] + grid["h"]):
                    self.assertNotIn((x, y), cells, panel["title"])
                    self.assertLess(x, 24, panel["title"])
                    cells.add((x, y))


if __name__ == "__main__":
    unittest.main()
