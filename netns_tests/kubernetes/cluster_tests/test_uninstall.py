"""An uninstall, by helm or by kubectl, leaves nodes and pods byte-equal to what they were before Weir."""

from difflib import unified_diff

import pytest

from netns_tests.kubernetes.cluster_tests.conftest import AMBIENT, Installed
from netns_tests.kubernetes.cluster_tests.footprint import footprints
from netns_tests.kubernetes.cluster_tests.webs import fetched
from netns_tests.kubernetes.cluster_tests.weir import SYSTEM
from netns_tests.patience import slow
from netns_tests.world import eventually
from tests import charts

pytestmark = pytest.mark.timeout(600)


def test_by_helm(installed: Installed) -> None:
    if not installed.weir.installed:
        installed.weir.install()
    _used(installed)
    installed.weir.uninstall()
    _as_before(installed)


def test_by_kubectl(installed: Installed) -> None:
    if installed.weir.installed:
        installed.weir.uninstall()
    installed.weir.apply()
    _used(installed)
    kubectl = installed.weir.kubectl
    kubectl("delete", "--namespace", SYSTEM, "daemonset/weir", "--cascade=foreground")
    kubectl("delete", "--filename", str(charts.MANIFESTS), "--ignore-not-found")
    installed.weir.remove_proxy()
    _as_before(installed)


def _used(installed: Installed) -> None:
    """Have pods captured that were there before Weir, and have them speak."""
    installed.earlier.label(**AMBIENT)
    installed.earlier.until_captured()
    here, there = installed.earlier.pods()
    for each in there["status"]["podIPs"]:
        assert fetched(installed.cluster.nodes[0], here, each["ip"], 8080) == there["metadata"]["name"]
    ruled = [text["nft"] for text in _seen(installed).values()]
    assert all("weir" in each for each in ruled), "what is looked for is there"


def _seen(installed: Installed) -> dict[str, dict[str, str]]:
    return footprints(installed.cluster.nodes, installed.earlier.pods())


def _as_before(installed: Installed) -> None:
    installed.earlier.label(**dict.fromkeys(AMBIENT))
    assert not any("annotations" in each["metadata"] for each in installed.earlier.pods())

    def difference() -> list[str]:
        seen = _seen(installed)
        assert seen.keys() == installed.before.keys()
        return [
            f"{name}: {what}:\n{_diff(was, seen[name][what])}"
            for name, all_of_it in installed.before.items()
            for what, was in all_of_it.items()
            if seen[name][what] != was
        ]

    try:
        eventually(lambda: not difference(), "nodes and pods are as before", slow(30.0))
    except AssertionError:
        pytest.fail("\n".join(difference()), pytrace=False)


def _diff(before: str, after: str) -> str:
    return "\n".join(unified_diff(before.splitlines(), after.splitlines(), "before", "after", n=1, lineterm=""))
