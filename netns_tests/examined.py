"""The doctor at a node of the test world."""

from collections.abc import Iterable
from pathlib import Path

from agent.doctor import Diagnosis, Finding, Node, examine
from agent.doctor.machine import Machine
from agent.kernel.netns import Netns
from agent.targets import Captured, Target
from netns_tests.namespace import Namespace
from rulesets.capture import Capture

__all__ = ["examined", "found", "mend"]

NOWHERE = Path("/nowhere-at-all")


def examined(node: Namespace, *pods: Namespace, **values: object) -> Diagnosis:
    """Return what the doctor finds at a node and in pods, of which a capture with these settings is wanted."""
    wish = Captured(capture=Capture.parse(values))
    return examine(
        [Target(name=each.name, netns=each.name, wish=wish) for each in pods],
        Node(machine=Machine, netns=Netns(node.name), configurations=NOWHERE, programs=NOWHERE),
    )


def found(diagnosis: Diagnosis, check: str, where: Namespace | None = None) -> tuple[Finding, ...]:
    """Return the findings of one check, of the node where no pod is named."""
    name = where.name if where is not None else "node"
    return tuple(each for each in diagnosis.findings if (each.check, each.where) == (check, name))


def mend(node: Namespace, findings: Iterable[Finding]) -> None:
    """Carry out on the node what findings say, as their reader would."""
    for each in findings:
        assert each.command, each
        node.command("sh", "-euc", each.command)
