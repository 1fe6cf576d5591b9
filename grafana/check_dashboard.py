#!/usr/bin/env python3
"""Does every query of a dashboard, or of a file of alerts, ask for something that is there?

    check_dashboard.py DASHBOARD.json METRICS.txt
    check_dashboard.py ALERTS.yml METRICS.txt

Reads every query of every panel and variable, or every alert's expression, takes the metric names and labels out of it, and looks each up in a
scraped /metrics. Names each query that asks for a metric without a sample, a label none of the metric's samples has,
or (with `=`) a value no sample has, and exits with 1. A metric that is announced (HELP, TYPE) but has no sample counts
as missing: a panel over it shows nothing.

Not a PromQL parser: it knows enough of the language to tell metrics from functions, keywords and labels.
"""

import json
import re
import sys

# Added by Prometheus when it scrapes, so never in what a process exports.
TARGET_LABELS = {"job", "instance"}
TARGET_METRICS = {"up"}

AGGREGATIONS = {
    "sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "topk", "bottomk", "quantile", "count_values",
    "limitk", "limit_ratio",
}
GROUPING = {"by", "without"}
MATCHING = {"on", "ignoring", "group_left", "group_right"}
WORDS = {"and", "or", "unless", "atan2", "bool", "offset", "inf", "nan", "start", "end"}

TOKEN = re.compile(
    r"""\s+ | \#[^\n]*
    | (?P<string>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | `[^`]*`)
    | (?P<range>\[[^\]]*\])
    | (?P<number>(?:0x[0-9a-fA-F]+ | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:ms|[smhdwy])?(?:\d+(?:ms|[smhdwy]))*)
    | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    | (?P<variable>\$\{[^}]*\} | \$\w+)
    | (?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^(){},=<>@])
    """,
    re.VERBOSE,
)


class Unreadable(Exception):
    """The query is not what this program can read."""


class Selector:
    """A metric, and every label the query uses with it."""

    def __init__(self, metric):
        self.metric = metric
        self.labels = set()
        self.values = []  # (label, value) asked for with =

    def __repr__(self):
        return f"{self.metric}{sorted(self.labels)}{self.values}"


def tokens(query):
    """The query as (kind, text) pairs."""
    found, at = [], 0
    while at < len(query):
        match = TOKEN.match(query, at)
        if not match:
            raise Unreadable(f"cannot read {query[at:at + 20]!r}")
        if match.lastgroup:
            found.append((match.lastgroup, match.group()))
        at = match.end()
    return found


def selectors(query):
    """The selectors of a query, with the labels it groups them by."""
    return _Reader(tokens(query)).expression(until=None)


class _Reader:
    def __init__(self, found):
        self.found, self.at = found, 0

    def peek(self):
        return self.found[self.at] if self.at < len(self.found) else (None, None)

    def take(self):
        token = self.peek()
        self.at += 1
        return token

    def expect(self, sign):
        if self.take()[1] != sign:
            raise Unreadable(f"expected {sign}")

    def expression(self, until):
        """Reads to the closing sign, or to the end."""
        found = []
        while True:
            kind, text = self.take()
            if kind is None:
                if until:
                    raise Unreadable(f"expected {until}")
                return found
            if kind == "sign" and text == until:
                return found
            if kind == "sign" and text == "(":
                found += self.expression(")")
            elif kind == "sign" and text in ("{", "}", ")"):
                raise Unreadable(f"{text} without a metric or an opening sign")
            elif kind == "name":
                found += self.name(text)

    def name(self, text):
        word, following = text.lower(), self.peek()[1]
        if word in AGGREGATIONS and (following == "(" or str(following).lower() in GROUPING):
            return self.aggregation()
        if word in MATCHING:
            if following == "(":
                self.take()
                self.label_list()
            return []
        if following == "(":  # a function
            self.take()
            return self.expression(")")
        if word in WORDS:
            return []
        selector = Selector(text)
        if following == "{":
            self.take()
            self.matchers(selector)
        return [selector]

    def aggregation(self):
        labels = self.grouping()
        self.expect("(")
        inside = self.expression(")")
        labels |= self.grouping()
        for selector in inside:
            selector.labels |= labels
        return inside

    def grouping(self):
        if str(self.peek()[1]).lower() not in GROUPING:
            return set()
        self.take()
        self.expect("(")
        return self.label_list()

    def label_list(self):
        labels = set()
        while True:
            kind, text = self.take()
            if kind == "name":
                labels.add(text)
            elif text == ")":
                return labels
            elif text != ",":
                raise Unreadable("a list of labels that does not end")

    def matchers(self, selector):
        while True:
            kind, label = self.take()
            if label == "}":
                return
            if label == ",":
                continue
            operator = self.take()[1]
            value_kind, value = self.take()
            if kind != "name" or operator not in ("=", "!=", "=~", "!~") or value_kind != "string":
                raise Unreadable(f"a matcher of {selector.metric} that does not read")
            selector.labels.add(label)
            if operator == "=" and "$" not in value:
                selector.values.append((label, value[1:-1]))


SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+\S+")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def samples(exposition):
    """Metric name -> label -> the values its samples have."""
    found = {}
    for line in exposition.splitlines():
        match = SAMPLE.match(line)
        if match and not line.startswith("#"):
            labels = found.setdefault(match.group(1), {})
            for label, value in LABEL.findall(match.group(2) or ""):
                labels.setdefault(label, set()).add(value)
    return found


def queries(dashboard):
    """(where, query) for every query of the dashboard."""
    def of_panels(panels):
        for panel in panels:
            for target in panel.get("targets", []):
                if target.get("expr"):
                    yield f"panel {panel.get('title', '?')!r}, query {target.get('refId', '?')}", target["expr"]
            yield from of_panels(panel.get("panels", []))

    yield from of_panels(dashboard.get("panels", []))
    for variable in dashboard.get("templating", {}).get("list", []):
        if variable.get("type") == "query":
            query = variable.get("query")
            yield f"variable {variable.get('name', '?')!r}", query.get("query", "") if isinstance(query, dict) else query


ALERT = re.compile(r"^\s*- alert:\s*(\S+)\s*$")
EXPRESSION = re.compile(r"^(\s*)expr:\s*(.*?)\s*$")


def alerts(text):
    """(name, expression) for every alert. Reads the YAML this repository writes: `expr:` on one line, or a `|` block."""
    name, lines = "?", text.splitlines()
    for at, line in enumerate(lines):
        if match := ALERT.match(line):
            name = match.group(1)
        elif match := EXPRESSION.match(line):
            indent, expression = len(match.group(1)), match.group(2)
            if expression == "|":
                block = []
                for following in lines[at + 1:]:
                    if following.strip() and len(following) - len(following.lstrip()) <= indent:
                        break
                    block.append(following.strip())
                expression = "\n".join(block).strip()
            yield f"alert {name}", expression


LABEL_VALUES = re.compile(r"^label_values\((?:(.*),)?\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*\)$", re.DOTALL)


def read(query):
    """The selectors of a panel's or a variable's query."""
    variable = LABEL_VALUES.match(query.strip())
    if not variable:
        return selectors(query)
    found = selectors(variable.group(1) or "")
    for selector in found:
        selector.labels.add(variable.group(2))
    return found


def faults(query, found):
    """What the query asks for and is not there, in sentences."""
    try:
        asked = read(query)
    except Unreadable as error:
        return [f"the query does not read: {error}"]
    if not asked:
        return ["the query names no metric"]
    said = []
    for selector in asked:
        if selector.metric in TARGET_METRICS:
            continue
        labels = found.get(selector.metric)
        if labels is None:
            histogram = f"{selector.metric}_bucket" in found
            hint = "; it is a histogram: use _bucket, _sum or _count" if histogram else ""
            said.append(f"no sample of metric {selector.metric}{hint}")
            continue
        for label in sorted(selector.labels - TARGET_LABELS - labels.keys()):
            said.append(f"metric {selector.metric} has no label {label}; it has: {', '.join(sorted(labels)) or 'none'}")
        for label, value in selector.values:
            if label in labels and value not in labels[label]:
                there = ", ".join(sorted(labels[label]))
                said.append(f"metric {selector.metric} has no {label}={value!r}; its values are: {there}")
    return said


def main(arguments):
    if len(arguments) != 2:
        print("usage: check_dashboard.py DASHBOARD.json|ALERTS.yml METRICS.txt", file=sys.stderr)
        return 2
    try:
        with open(arguments[0], encoding="utf-8") as file:
            text = file.read()
        asked = list(alerts(text)) if arguments[0].endswith((".yml", ".yaml")) else list(queries(json.loads(text)))
        with open(arguments[1], encoding="utf-8") as file:
            found = samples(file.read())
    except (OSError, ValueError) as error:
        print(f"check_dashboard.py: {error}", file=sys.stderr)
        return 2
    wrong = 0
    for where, query in asked:
        said = faults(query, found)
        if said:
            wrong += 1
            print(f"{where}: {query}")
            for fault in said:
                print(f"    {fault}")
    print(f"{len(asked) - wrong} of {len(asked)} queries find what they ask for")
    return 1 if wrong or not asked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
