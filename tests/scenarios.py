"""The golden scenarios: a `capture.toml` for each, beside what it must become.

Its keys are a target's settings. What is no setting stands under `[scenario]`: `stage`, `table`, the node's `probes`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from rulesets import host, pod
from rulesets.capture import Capture
from rulesets.host import Probes, ProbeTarget
from rulesets.model import Ruleset
from rulesets.pod import Stage

GOLDEN = Path(__file__).parent.parent / "rulesets/golden"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A golden, read. `capture` is None for the node's table."""

    name: str
    capture: Capture | None
    stage: Stage
    ruleset: Ruleset

    def path(self, file: str) -> Path:
        """Return the path of one of the scenario's files."""
        return GOLDEN / self.name / file


def names() -> list[str]:
    """Return the names of all scenarios."""
    return sorted(path.parent.name for path in GOLDEN.glob("*/capture.toml"))


def load(name: str) -> Scenario:
    """Read a scenario and build its ruleset."""
    return build(name, (GOLDEN / name / "capture.toml").read_text())


def build(name: str, text: str) -> Scenario:
    """Build a scenario from the text of its file."""
    settings: dict[str, Any] = tomllib.loads(text)
    beside: Mapping[str, Any] = settings.pop("scenario", {})
    unknown = beside.keys() - {"stage", "table", "probes"}
    assert not unknown, f"{name}: [scenario] knows no {unknown}"
    stage = Stage(beside.get("stage", "steady"))
    if "probes" in beside:
        assert not settings, f"{name}: the node's table has no settings"
        targets = tuple(
            ProbeTarget(address=ip_address(each["address"]), owner=each["owner"], ports=tuple(each.get("ports", ())))
            for each in beside["probes"]
        )
        return Scenario(name=name, capture=None, stage=stage, ruleset=host.build(Probes(targets=targets)))
    capture = Capture.parse(settings)
    table = beside.get("table", pod.POD_TABLE)
    return Scenario(name=name, capture=capture, stage=stage, ruleset=pod.build(capture, stage=stage, table=table))


def anywhere() -> list[Scenario]:
    """Read every scenario whose rules can be loaded on any machine: a cgroup has another number on each, or none."""
    return [each for each in load_all() if each.capture is None or each.capture.proxy_cgroup is None]


def load_all() -> list[Scenario]:
    """Read every scenario."""
    return [load(name) for name in names()]
