"""Agents and proxies are replaced while 200 connections a second run: none is lost, none goes uncaptured."""

import pytest

from netns_tests.kubernetes.cluster_tests.conftest import Installed
from netns_tests.kubernetes.cluster_tests.load import Carried, Load
from netns_tests.kubernetes.cluster_tests.webs import Webs
from netns_tests.kubernetes.cluster_tests.weir import PROXY
from netns_tests.patience import slow
from netns_tests.world import eventually

pytestmark = pytest.mark.timeout(600)


def test_a_rolling_update_of_the_agents(installed: Installed, webs: Webs) -> None:
    carried = Carried(installed.cluster)
    before = [installed.weir.agent(each)["metadata"]["uid"] for each in installed.cluster.nodes]
    with Load(installed.cluster, webs) as load:
        installed.weir.update("weir")()
        connections = load.finish()
    after = [installed.weir.agent(each)["metadata"]["uid"] for each in installed.cluster.nodes]
    assert not set(before) & set(after)
    carried.until(connections)


def test_agents_that_are_killed_come_back(installed: Installed, webs: Webs) -> None:
    carried = Carried(installed.cluster)
    with Load(installed.cluster, webs) as load:
        for node in installed.cluster.nodes:
            installed.weir.kill(node)
            load.more()
        connections = load.finish()
    carried.until(connections)


def test_a_rolling_update_of_the_proxies(installed: Installed, webs: Webs) -> None:
    """One that goes has no new connections, and keeps those that it has: until they end it is beside the next one."""
    _proxies_replaced(installed, webs, PROXY)


def test_a_rolling_update_of_both(installed: Installed, webs: Webs) -> None:
    _proxies_replaced(installed, webs, "weir", PROXY)


def _proxies_replaced(installed: Installed, webs: Webs, *names: str) -> None:
    with Load(installed.cluster, webs) as load:
        until_done = installed.weir.update(*names)
        eventually(lambda: installed.weir.leaving(PROXY), "a proxy is about to end", slow(60.0))
        load.more()
        load.finish_streams()
        until_done()
        load.finish()
