"""Rules and alerts for Prometheus: it takes them, each alert has a case and a runbook, and each series exists."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.packages import ROOT, lacks

FOLDER = ROOT / "deploy/prometheus"
ALERTS = (FOLDER / "alerts.yaml").read_text()
NAMES = re.findall(r"- alert: (\w+)", ALERTS)
DASHBOARD = ROOT / "deploy/grafana/weir.json"


def promtool(*arguments: str) -> tuple[int, str]:
    """Exit status and what was said."""
    if lacks("prometheus"):
        pytest.skip("this distribution has no prometheus")
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.returncode, done.stdout


def test_prometheus_takes_the_rules() -> None:
    status, said = promtool("check", "rules", "rules.yaml", "alerts.yaml")
    assert status == 0, said


def test_each_alert_fires_for_its_fault_and_not_before() -> None:
    status, said = promtool("test", "rules", "tests.yaml")
    assert status == 0, said


def test_a_case_that_is_wrong_is_seen(tmp_path: Path) -> None:
    for each in FOLDER.glob("*.yaml"):
        (tmp_path / each.name).write_text(each.read_text().replace("severity: page", "severity: info", 1))
    status, said = promtool("test", "rules", str(tmp_path / "tests.yaml"))
    assert status != 0, said


def test_each_alert_has_a_case_a_severity_and_a_runbook() -> None:
    assert len(NAMES) == len(set(NAMES)) > 10
    cases = (FOLDER / "tests.yaml").read_text()
    pages = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert pages == NAMES, "in the order of the alerts"
    for text in ALERTS.split("- alert: ")[1:]:
        name = text.split("\n", 1)[0]
        assert cases.count(f"- alertname: {name}\n") >= 1, name
        assert re.search(r"severity: (page|warning|info)}", text), name
        assert f"runbook: docs/runbooks.md#{name.lower()}\n" in text, name


def expressions() -> list[str]:
    """Every expression of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_every_series_that_is_asked_for_is_one_that_weir_has() -> None:
    source = "\n".join(each.read_text() for each in (ROOT / "agent").rglob("*.py"))
    recorded = re.findall(r"record: ([\w:]+)", (FOLDER / "rules.yaml").read_text())
    asked = " ".join(
        [*re.findall(r"expr: (.*(?:\n {10,}.*)*)", ALERTS + (FOLDER / "rules.yaml").read_text()), *expressions()]
    )
    names = set(re.findall(r"\b(?:weir|ztunnel|istio|nodeagent)[:_][\w:]+", asked))
    stems = {name: re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names if name not in recorded}
    # Counters of connection tracking are named after the kernel's.
    unknown = [
        name
        for name, stem in sorted(stems.items())
        if not any(f'"{each}"' in source for each in (stem, stem.removeprefix("weir_conntrack_")))
    ]
    assert len(names) > 20
    assert unknown == []
