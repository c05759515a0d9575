"""From a compact description of panels to Grafana's JSON.

What a panel says is in `panels.py`; here is only how Grafana wants it. Thresholds come from the
alerts' annotation `threshold`, so that a line on the dashboard is where the alert is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, NamedTuple

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "heatmap"]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
ANY = 'namespace=~".*"'
"""In the rules; see there."""
CHOSEN = 'namespace=~"$namespace", pod=~"$pod"'
"""On the dashboard, instead of it."""
_COLOURS = {"warning": "orange", "critical": "red"}
_ALMOST_NOTHING = 1e-6
"""For alerts on more than 0: Grafana colours from the threshold on, itself included."""


class Query(NamedTuple):
    """PromQL, with `{}` where the chosen namespaces and pods are to be put, and its legend."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        text: what it tells, and what is usual.
        queries: what is drawn.
        unit: Grafana's name of it, as s, bytes, percentunit.
        lines: alerts whose thresholds are drawn; what is drawn is what they look at.
        alerts: others that this panel explains.
        at: a threshold of its own: red from there on.
        least: red below it.
        stack: whether the series are parts of a whole.
    """

    title: str
    text: str
    queries: Sequence[Query]
    unit: str = "short"
    lines: Sequence[str] = ()
    alerts: Sequence[str] = ()
    at: float | None = None
    least: float | None = None
    kind: Kind = "timeseries"
    width: int = 8
    stack: bool = False


@dataclass(frozen=True)
class Row:
    """Panels that answer one question."""

    title: str
    panels: Sequence[Panel]


class Rules:
    """What the dashboard takes from the rules' file."""

    def __init__(self, document: Json) -> None:
        rules = [rule for group in document["groups"] for rule in group["rules"]]
        self.alerts: dict[str, Json] = {rule["alert"]: rule for rule in rules if "alert" in rule}
        self.records: dict[str, Json] = {rule["record"]: rule for rule in rules if "record" in rule}

    def value(self, alert: str) -> str:
        """What an alert compares with its threshold, for the chosen pods."""
        threshold = re.escape(self.alerts[alert]["annotations"]["threshold"])
        expr, compared, _ = _once(rf" > {threshold}(?![\d.])", self.alerts[alert]["expr"])
        assert compared, alert
        return re.sub(r"\s+", " ", expr).strip().replace(ANY, CHOSEN)

    def step(self, alert: str) -> Json:
        """Its threshold."""
        rule = self.alerts[alert]
        number = float(rule["annotations"]["threshold"]) or _ALMOST_NOTHING
        return {"color": _COLOURS[rule["labels"]["severity"]], "value": number}

    def objective(self) -> float:
        """Seconds from the acceptance of an event to its socket."""
        expr = self.records["herald:slow_writes:ratio_rate5m"]["expr"]
        (bound,) = set(re.findall(r'le="([\d.]+)"', expr))
        return float(bound)


def _once(pattern: str, text: str) -> tuple[str, str, str]:
    found = re.search(pattern, text)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")


def dashboard(title: str, text: str, rows: Sequence[Row], rules: Rules) -> Json:
    """The whole document, for an import or a ConfigMap."""
    return {
        "uid": "herald",
        "title": title,
        "description": text,
        "tags": ["herald"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "title": "Runbook",
                "type": "link",
                "url": "RUNBOOK_URL",
                "icon": "doc",
                "targetBlank": True,
            }
        ],
        "annotations": {"list": [_drains()]},
        "templating": {"list": list(_variables())},
        "panels": list(_place(rows, rules)),
    }


def _drains() -> Json:
    return {
        "name": "Drains",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "orange",
        "expr": f"max by (namespace, pod) (herald_draining{{{CHOSEN}}}) == 1",
        "step": "30s",
        "titleFormat": "{{pod}} drains",
    }


def _variables() -> Iterator[Json]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    for name, label, of in (
        ("namespace", "Namespace", ""),
        ("pod", "Pod", '{namespace=~"$namespace"}'),
    ):
        query = f"label_values(herald_build_info{of}, {name})"
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }


def _place(rows: Sequence[Row], rules: Rules) -> Iterator[Json]:
    ids = count(1)
    y = 0
    for row in rows:
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {"id": next(ids), "type": "row", "title": row.title, "gridPos": place, "panels": []}
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            height = 4 if panel.kind == "stat" else 8
            place = {"x": x, "y": y, "w": panel.width, "h": height}
            yield {"id": next(ids), "gridPos": place, **_panel(panel, rules)}
            x += panel.width
        y += height


def _panel(panel: Panel, rules: Rules) -> Json:
    defaults: Json = {"unit": panel.unit, "thresholds": _thresholds(panel, rules)}
    has_lines = len(defaults["thresholds"]["steps"]) > 1
    if panel.kind == "timeseries":
        defaults["color"] = {"mode": "palette-classic"}
        defaults["min"] = 0
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stack else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stack else "none"},
            "thresholdsStyle": {"mode": "line" if has_lines else "off"},
        }
    elif panel.kind == "stat":
        defaults["color"] = {"mode": "thresholds"}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": _described(panel),
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": list(_targets(panel)),
    }


def _thresholds(panel: Panel, rules: Rules) -> Json:
    if panel.least is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.least}]
        return {"mode": "absolute", "steps": steps}
    steps = [rules.step(alert) for alert in panel.lines]
    if panel.at is not None:
        steps.append({"color": "red", "value": panel.at})
    steps.sort(key=lambda step: step["value"])
    return {"mode": "absolute", "steps": [{"color": "green", "value": None}, *steps]}


def _described(panel: Panel) -> str:
    named = [*panel.lines, *panel.alerts]
    links = ", ".join(f"[{alert}](RUNBOOK_URL#{alert.lower()})" for alert in named)
    return panel.text + (f"\n\nAlerts: {links}." if links else "")


def _options(panel: Panel) -> Json:
    match panel.kind:
        case "stat":
            return {
                "reduceOptions": {"calcs": ["lastNotNull"]},
                "colorMode": "value",
                "graphMode": "area",
            }
        case "heatmap":
            return {
                "calculate": False,
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                "yAxis": {"unit": panel.unit},
                "cellGap": 0,
            }
    return {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _targets(panel: Panel) -> Iterator[Json]:
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        yield {
            "refId": letter,
            "datasource": SOURCE,
            "expr": query.expr.replace("{}", "{" + CHOSEN + "}").replace("{,", "{" + CHOSEN + ","),
            "legendFormat": query.legend,
            "range": True,
            **({"format": "heatmap"} if panel.kind == "heatmap" else {}),
        }
