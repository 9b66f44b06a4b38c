"""The dashboard and the alert rules: they ask for what a node exports, and all of it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from spegel_py.metrics import NodeMetrics
from spegel_py.outcomes import AttemptOutcome, MissReason
from spegel_py.preheat.metrics import label_of
from spegel_py.preheat.preheat_job import OVER
from spegel_py.routing.peer_proofs import ProofResult
from spegel_py.supervision.conditions import Tier
from spegel_py.supervision.metrics import SupervisionMetrics
from spegel_py.supervision.repairs import RepairOutcome
from tests.deploy.chart import CHART

DASHBOARD = json.loads((CHART / "monitoring" / "dashboard.json").read_text())
RULES = yaml.safe_load((CHART / "monitoring" / "rules.yaml").read_text())["groups"][0]["rules"]

SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
    "summary": ("_count", "_sum"),
}
"""What Prometheus has of each type of metric."""

OF_KUBERNETES = {"namespace", "job", "instance", "le"}
"""Labels that Prometheus adds, or that every histogram has."""

VALUES = {
    ("spegel_mirror_requests_total", "cache"): {"hit", "miss"},
    ("spegel_mirror_misses_total", "reason"): {reason.value for reason in MissReason},
    ("spegel_alerts_open", "tier"): {tier.label for tier in Tier},
    ("spegel_repairs_total", "outcome"): {outcome.value for outcome in RepairOutcome},
    ("spegel_verified_blobs_total", "outcome"): {"ok", "wrong"},
    ("spegel_preheat_nodes_total", "outcome"): {label_of(stage) for stage in OVER},
    ("spegel_peer_proofs_total", "result"): {result.value for result in ProofResult},
    ("spegel_peer_requests_total", "outcome"): {result.value for result in AttemptOutcome},
}
"""What labels may be, where an expression picks some of it."""

GRAFANAS = {"$__rate_interval": "5m", "$__range": "3h", "$namespace": ".*", "$instance": ".*"}


def exported() -> dict[str, set[str]]:
    """Return every name that a node exports, with its labels."""
    metrics = NodeMetrics()
    SupervisionMetrics(registry=metrics.registry)
    names: dict[str, set[str]] = {}
    for collector in list(metrics.registry._collector_to_names):
        labels = set(collector._labelnames) if isinstance(collector, MetricWrapperBase) else set()
        for family in collector.collect():
            names |= {family.name + suffix: labels for suffix in SUFFIXES[family.type]}
    return names


EXPORTED = exported()


def expressions() -> Iterator[tuple[str, str]]:
    """Yield the dashboard's and the rules' expressions with where each stands."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


EXPRESSIONS = dict(expressions())


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Return what an expression selects. Raises ValueError where it is no PromQL."""
    for variable, value in GRAFANAS.items():
        expression = expression.replace(variable, value)
    found: list[promql_parser.VectorSelector] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_every_expression_asks_for_what_a_node_exports(expression: str) -> None:
    """Names and labels alike: a panel or an alert on what is not there would be silent for ever."""
    found = selectors(expression)
    assert found
    for selector in found:
        assert selector.name in EXPORTED
        used = {matcher.name for matcher in selector.matchers.matchers}
        assert used <= EXPORTED[selector.name] | OF_KUBERNETES, selector.name
        for matcher in selector.matchers.matchers:
            if matcher.name not in OF_KUBERNETES:
                assert set(matcher.value.split("|")) <= VALUES[selector.name, matcher.name]


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    """What is counted and never shown helps nobody."""
    shown = {
        selector.name for expression in EXPRESSIONS.values() for selector in selectors(expression)
    }
    ours = {name for name in EXPORTED if not name.startswith("process_")}
    unseen = {
        name
        for name in ours
        if not any(f"{stem(name)}{suffix}" in shown for suffix in ALL_SUFFIXES)
    }
    assert not unseen


ALL_SUFFIXES = [suffix for suffixes in SUFFIXES.values() for suffix in suffixes]


def stem(name: str) -> str:
    """Return a metric's name without what its type adds."""
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    """Its severity is one of three, and its texts name only labels that its expression leaves."""
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    texts = " ".join(rule["annotations"][key] for key in ("summary", "description"))
    mentioned = set(re.findall(r"\$labels\.(\w+)", texts))
    kept = (
        set().union(*(EXPORTED[each.name or ""] for each in selectors(rule["expr"])))
        | OF_KUBERNETES
    )
    grouped = re.findall(r"sum by \(([^)]*)\)", rule["expr"])
    assert mentioned <= (set(re.split(r",\s*", grouped[0])) if grouped else kept)


def test_panels_do_not_overlap() -> None:
    """Each has its own place, within Grafana's 24 columns, and a title and a source."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
