"""The pods of a node as a real API server has them: watched, away, expired, hanging, many."""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from agent.sources.kubernetes.watching import Patience
from netns_tests.kubernetes.api_server import ApiServer
from netns_tests.kubernetes.informing import Informing
from netns_tests.kubernetes.objects import add_pod, delete_pod, namespace, pod_path, running

_NUMBERS = itertools.count()
Start = Callable[..., Informing]


@pytest.fixture
def shop(api_server: ApiServer) -> str:
    return namespace(api_server, f"shop-{next(_NUMBERS)}", **{"istio.io/dataplane-mode": "ambient"})


@pytest.fixture
def node(shop: str) -> str:
    return f"node-of-{shop}"


@pytest.fixture
def start(api_server: ApiServer, node: str, stack: ExitStack) -> Start:
    def started(patience: Patience = Patience()) -> Informing:  # noqa: B008
        made = stack.enter_context(Informing(api_server.kubeconfig, node, patience=patience))
        made.until_whole()
        return made

    return started


def test_a_pod_is_followed_from_its_beginning_to_its_end(
    api_server: ApiServer, shop: str, node: str, start: Start
) -> None:
    add_pod(api_server, shop, "elsewhere", "another-node")
    there = add_pod(api_server, shop, "there", node)
    seen = start()
    assert seen.names() == ["there"]
    assert seen.wholes == 1
    assert seen.informer.namespaces[shop].labels["istio.io/dataplane-mode"] == "ambient"

    uid = add_pod(api_server, shop, "web", node, labels={"app": "web"}, annotations={"example.com/large": "x" * 10_000})
    seen.until(lambda: uid in seen.informer.pods, "the pod is known")
    assert seen.informer.pods[uid].service_account == "default"
    assert not seen.informer.pods[uid].annotations

    running(api_server, shop, "web", "10.0.0.7", "fd00::7")
    addresses = (ip_address("10.0.0.7"), ip_address("fd00::7"))
    seen.until(lambda: seen.informer.pods[uid].addresses == addresses, "its addresses are known")

    name = "traffic.sidecar.istio.io/excludeInboundPorts"
    api_server.patch(pod_path(shop, "web"), {"metadata": {"annotations": {name: "80"}}})
    seen.until(lambda: seen.informer.pods[uid].annotations == {name: "80"}, "an annotation is read again")

    told = len(seen.changed)
    api_server.patch(pod_path(shop, "web"), {"metadata": {"annotations": {"example.com/other": "x"}}})
    api_server.patch(pod_path(shop, "web"), {"metadata": {"labels": {"app": "shop"}}})
    seen.until(lambda: seen.informer.pods[uid].labels == {"app": "shop"}, "its label is read again")
    assert seen.changed[told:] == [uid]

    delete_pod(api_server, shop, "web")
    seen.until(lambda: uid not in seen.informer.pods, "its end is known")
    assert seen.informer.find(shop, "web") is None
    assert list(seen.informer.pods) == [there]


def test_labels_of_a_namespace_concern_its_pods(api_server: ApiServer, shop: str, node: str, start: Start) -> None:
    uid = add_pod(api_server, shop, "web", node)
    seen = start()
    told = len(seen.changed)
    api_server.patch(f"/api/v1/namespaces/{shop}", {"metadata": {"labels": {"istio.io/dataplane-mode": None}}})
    seen.until(lambda: len(seen.changed) > told, "the pod is told of")
    assert seen.changed[told:] == [uid]
    assert "istio.io/dataplane-mode" not in seen.informer.namespaces[shop].labels


def test_bookmarks_carry_a_quiet_watch_on(api_server: ApiServer, shop: str, node: str, start: Start) -> None:
    add_pod(api_server, shop, "elsewhere", "another-node")
    seen = start(Patience(silence=30.0, shortest=4, longest=5))
    changes = itertools.count()

    def heard() -> bool:
        labels = {"number": str(next(changes))}
        api_server.patch(pod_path(shop, "elsewhere"), {"metadata": {"labels": labels}})
        time.sleep(0.1)  # bookmarks come with changes elsewhere, that a watch of this node isn't told
        return seen.state().bookmarks >= 3 and seen.state().restarts >= 3

    seen.until(heard, "bookmarks, and watches anew")
    assert seen.state().relists == 0
    assert seen.state().error == ""
    assert seen.changed == []
    uid = add_pod(api_server, shop, "later", node)
    seen.until(lambda: uid in seen.informer.pods, "the watch still hears")


def test_versions_that_were_compacted_are_listed_and_compared(
    api_server: ApiServer, shop: str, node: str, start: Start
) -> None:
    kept, gone = add_pod(api_server, shop, "kept", node), add_pod(api_server, shop, "gone", node)
    again = add_pod(api_server, shop, "again", node)
    seen = start()
    seen.wait_a_while()
    delete_pod(api_server, shop, "gone")
    delete_pod(api_server, shop, "again")
    newer, added = add_pod(api_server, shop, "again", node), add_pod(api_server, shop, "added", node)
    api_server.compact()
    api_server.stop()
    api_server.start()  # or its cache would still have what etcd has forgotten
    told = len(seen.changed)
    seen.go_on()
    seen.until(lambda: seen.state().relists >= 1, "all is listed anew")
    seen.until(lambda: set(seen.informer.pods) == {kept, newer, added}, "what was missed is known")
    assert set(seen.changed[told:]) == {gone, again, newer, added}
    assert seen.wholes == 1


def test_an_api_that_is_away_takes_nothing_with_it(api_server: ApiServer, shop: str, node: str, start: Start) -> None:
    kept, gone = add_pod(api_server, shop, "kept", node), add_pod(api_server, shop, "gone", node)
    seen = start()
    api_server.stop()
    seen.until(lambda: not seen.state().connected, "the API is missed")
    assert seen.names() == ["gone", "kept"]
    assert seen.state().error
    assert seen.state().complete
    api_server.start()
    delete_pod(api_server, shop, "gone")
    added = add_pod(api_server, shop, "added", node)
    seen.until(lambda: set(seen.informer.pods) == {kept, added}, "the API is heard again")
    seen.until(lambda: seen.state().connected and not seen.state().error, "and all is well")
    assert gone in seen.changed


def test_an_api_that_hangs_is_noticed(api_server: ApiServer, shop: str, node: str, start: Start) -> None:
    add_pod(api_server, shop, "web", node)
    seen = start(Patience(silence=1.0, shortest=300, longest=300))
    api_server.pause()
    try:
        seen.until(lambda: not seen.state().connected, "the hanging API is missed")
        assert seen.names() == ["web"]
    finally:
        api_server.resume()
    uid = add_pod(api_server, shop, "later", node)
    seen.until(lambda: uid in seen.informer.pods, "it is heard again")


def test_five_hundred_pods_are_listed_in_pages_and_cost_little(api_server: ApiServer, shop: str, node: str) -> None:
    for number in range(500):
        add_pod(api_server, shop, f"pod-{number:03}", node, annotations={"example.com/large": "x" * 4000})
    program = f"""
import asyncio, pathlib
from agent.sources.kubernetes.api import Api
from agent.sources.kubernetes.informer import Informer

def resident():
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])

async def main():
    api = Api.open(pathlib.Path({str(api_server.kubeconfig)!r}), node="n")
    none = Informer(api, "nobody", lambda _: None, lambda: None)
    task = asyncio.create_task(none.run())
    while not none.complete:
        await asyncio.sleep(0.01)
    before = resident()
    whole = asyncio.Event()
    informer = Informer(api, {node!r}, lambda _: None, whole.set)
    other = asyncio.create_task(informer.run())
    await whole.wait()
    print(len(informer.pods), resident() - before, sum(each.count for each in api.calls() if each.verb == "list"))
    for each in (task, other):
        each.cancel()
    await asyncio.gather(task, other, return_exceptions=True)
    await api.close()

asyncio.run(main())
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    pods, kilobytes, lists = (int(each) for each in found.stdout.split())
    assert pods == 500
    assert lists == 3 + 500 // 100  # two of namespaces, one of no pods, five pages
    assert kilobytes < 10_000
