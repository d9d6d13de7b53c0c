"""One cluster for all tests of this folder, and one Weir on it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from netns_tests.images import build
from netns_tests.kubernetes import node_parts
from netns_tests.kubernetes.cluster import Cluster
from netns_tests.kubernetes.cluster_tests.footprint import Footprint, footprints
from netns_tests.kubernetes.cluster_tests.webs import Webs
from netns_tests.kubernetes.cluster_tests.weir import Weir

AMBIENT = {"istio.io/dataplane-mode": "ambient"}


@pytest.fixture(scope="session")
def cluster(root: None) -> Iterator[Cluster]:
    """Give a test the cluster. All tests share it: use a namespace of your own."""
    with Cluster() as running:
        yield running


@dataclass(frozen=True, slots=True)
class Installed:
    """Weir on the cluster; pods that were there before it; and what nodes and these pods had then, by name."""

    cluster: Cluster
    weir: Weir
    earlier: Webs
    before: dict[str, Footprint] = field(repr=False)


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Iterator[Installed]:
    """Give a test Weir, installed by the chart on nodes that had pods already."""
    for node in cluster.nodes:
        node.load(build.image())
        node.load(node_parts.proxy())
    with Webs(cluster, "earlier", 18082) as earlier:
        found = Installed(cluster, Weir(cluster), earlier, footprints(cluster.nodes, earlier.pods()))
        found.weir.install()
        yield found
        if found.weir.installed:
            found.weir.uninstall()


@pytest.fixture(scope="module")
def webs(installed: Installed) -> Iterator[Webs]:
    """Give a test pods that start captured, one on each node."""
    with Webs(installed.cluster, "shop", 18081, **AMBIENT) as made:
        made.until_captured()
        yield made
