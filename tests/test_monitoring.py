"""Alert rules and dashboard of examples/monitoring: well formed, and about what there is."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sockd.metrics import METRICS

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "examples" / "monitoring"
RULES = PLACE / "sockd.rules.yml"
DASHBOARD = PLACE / "sockd-dashboard.json"
CASES = ROOT / "tests" / "monitoring.test.yml"
PROM_NAME = re.compile(r"\bsockd_[a-z_]+")


@pytest.fixture(scope="session")
def promtool() -> str:
    return subprocess.check_output([ROOT / "dev" / "promtool"], text=True).strip()


def used() -> set[str]:
    """Names of metrics in rules and dashboard; those of a histogram's parts are its own."""
    text = "\n".join([RULES.read_text(), *expressions()])
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in PROM_NAME.findall(text)}


def expressions() -> Iterator[str]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def checked(promtool: str, *words: str | Path) -> str:
    done = subprocess.run([promtool, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules(promtool: str, tmp_path: Path) -> None:
    """They are accepted, and each alert is raised by what it is for alone."""
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert f"{len(alerts)} rules found" in checked(promtool, "check", "rules", RULES)
    cases = CASES.read_text()
    assert set(alerts) == set(re.findall(r'alertname="(\w+)"', cases))
    (tmp_path / "cases.yml").write_text(cases.replace("RULES", str(RULES)))
    checked(promtool, "test", "rules", tmp_path / "cases.yml")


def _filled(expression: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        expression = expression.replace(name, value)
    return expression


def test_dashboard(promtool: str, tmp_path: Path) -> None:
    """Each of its expressions is one; panels do not overlap, and have names."""
    known = {"$__rate_interval": "5m", "$service": "x"}
    found = [_filled(one, known) for one in expressions()]
    assert len(found) > 20
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(found)]
    (tmp_path / "all.yml").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    checked(promtool, "check", "rules", tmp_path / "all.yml")
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_they_name_what_there_is() -> None:
    names = {metric.name for metric in METRICS}
    assert used() <= names
    assert names - used() == set(), "neither an alert nor a panel"
