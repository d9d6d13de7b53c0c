"""What is no drift; what happened while no daemon ran; and what is lost when too much is told at once."""

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.drift.deeds import MOST, Deeds
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from netns_tests.daemon import CAPTURE, PROXY, Daemon, appear, listening, rules, targets, vanish
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.namespace import Namespace
from netns_tests.pods_api import Api, pod_of
from netns_tests.pods_node import SECONDS, Node
from netns_tests.vandal import Vandal, drifts
from netns_tests.world import World, eventually
from rulesets import pod as pods
from rulesets.capture import Capture
from rulesets.diff import diff


@pytest.fixture
def pod() -> Iterator[Namespace]:
    with Namespace.create("pod") as made:
        yield made


def start(stack: ExitStack, folder: Path, pod: Namespace, *arguments: str) -> Daemon:
    daemon = stack.enter_context(Daemon(folder, targets([pod]), "--resync", "36000", *arguments)).start()
    daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is captured")
    return daemon


@pytest.mark.parametrize("owned", ["--own", "--no-own"])
def test_what_weir_does_itself_is_no_drift(pod: Namespace, tmp_path: Path, owned: str) -> None:
    with ExitStack() as stack:
        for each in listening(pod, *PROXY):
            stack.callback(each.close)
        daemon = start(stack, tmp_path, pod, owned)
        assert daemon.weir("remove", "t0").code == 0
        assert daemon.weir("apply", "t0").code == 0
        before = rules(pod)
        daemon.rewrite(targets([pod], f"{CAPTURE}\nexclude_outbound_ports = [1]"))
        daemon.eventually(lambda: rules(pod) != before, "it is changed")
        daemon.rewrite(targets([pod]))
        daemon.eventually(lambda: rules(pod) == before, "and back")
        pod.nft("table inet theirs { chain c { type nat hook output priority -100; tcp dport 80 redirect to :9; }; }")
        pod.ip("rule add priority 77 fwmark 0x77 lookup 77", "link add d0 type veth peer name d1", "link del d0")
        for number in (signal.SIGTERM, signal.SIGKILL):
            daemon.end(number)
            daemon.start()
            daemon.eventually(lambda: daemon.state("t0") in ("unchanged", "applied"), "it is taken over")
        daemon.eventually(lambda: daemon.state("t0") == "unchanged", "and at rest")
        assert drifts(daemon) == []
        assert " drift: " not in daemon.log
        assert not [key for key, value in daemon.metrics().items() if key[0] == "weir_drift_total" and value]


def test_what_others_did_while_no_daemon_ran_is_told_without_a_culprit(pod: Namespace, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for each in listening(pod, *PROXY):
            stack.callback(each.close)
        daemon = start(stack, tmp_path, pod)
        before = rules(pod)
        for damage, kind in (("insert rule inet weir-pod nat-out accept", "changed"), ("flush ruleset", "gone")):
            daemon.end()
            Vandal(tmp_path)(pod, "nft", damage)
            daemon.start()
            daemon.eventually(lambda: rules(pod) == before, "it is mended")
            (drift,) = drifts(daemon)
            assert (drift["kind"], drift["culprit"]) == (f"table-{kind}", None)
            assert "while no daemon ran" in drift["said"]


def test_a_proxy_that_ends_and_a_namespace_that_is_replaced_are_told(pod: Namespace, tmp_path: Path) -> None:
    with ExitStack() as stack:
        opened = listening(pod, *PROXY)
        daemon = start(stack, tmp_path, pod)
        opened[0].close()
        daemon.eventually(lambda: drifts(daemon), "it is polled")
        (drift,) = drifts(daemon)
        assert (drift["kind"], drift["culprit"]) == ("listener-gone", None)
        assert "tcp port 15001 (outbound_port)" in drift["said"]
        opened[1].close()
        vanish(pod)
        appear(pod)
        daemon.eventually(lambda: len(drifts(daemon)) > 1 or daemon.log.count("applied") > 1, "it is seen")
        later = [each["kind"] for each in drifts(daemon)[1:]]
        assert later in ([], ["namespace-replaced"], ["listener-gone"], ["listener-gone", "namespace-replaced"])


def test_an_owned_table_does_not_drift(pod: Namespace, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for each in listening(pod, *PROXY):
            stack.callback(each.close)
        daemon = start(stack, tmp_path, pod)
        before = rules(pod)
        Vandal(tmp_path)(pod, "nft", "flush ruleset")
        pod.ip("rule del priority 32764")  # which nobody can own
        daemon.eventually(lambda: drifts(daemon), "it is told")
        assert [each["kind"] for each in drifts(daemon)] == ["policy-rule"]
        daemon.eventually(lambda: rules(pod) == before, "it is mended")


def test_notifications_that_are_lost_mean_that_everything_may_have_changed(pod: Namespace) -> None:
    handle = Handle(Netns(pod.name))
    try:
        tables, _ = handle.subscribe()
        tables.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        handle.apply(diff(None, pods.build(Capture())))
        flood = "".join(f"add table ip t{number}; delete table ip t{number}\n" for number in range(200))
        pod.nft(flood)
        deeds, lost = Deeds(), 0
        for _ in range(10_000):
            try:
                deeds.hear_tables(tables.recv(65536), ours=handle.port)
            except BlockingIOError:
                break
            except OSError:
                deeds.lose()
                lost += 1
        assert (lost, deeds.lost) == (1, True)
        assert len(deeds.found) <= MOST
        assert not deeds.end_pass(deeds.mark, wrote=False)
        assert not deeds.lost
    finally:
        handle.close()


def test_a_flood_that_is_lost_is_told_and_ends_right(pod: Namespace, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for each in listening(pod, *PROXY):
            stack.callback(each.close)
        daemon = start(stack, tmp_path, pod, "--no-own")
        before = rules(pod)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)  # nobody reads
        rule = "add rule ip flood c ip saddr 192.0.2.1 ip daddr 192.0.2.2 tcp dport 1 counter drop\n"
        pod.nft("add table ip flood; add chain ip flood c\n" + rule * 3000)
        pod.nft("flush ruleset")
        daemon.process.send_signal(signal.SIGCONT)
        daemon.eventually(lambda: rules(pod) == before, "it is mended")
        daemon.eventually(lambda: daemon.metrics()["weir_drift_overruns_total", ()] >= 1, "the loss is counted")
        assert {"table-gone", "overrun"} <= {each["kind"] for each in drifts(daemon)}


def test_a_captured_pod_gets_an_event(world: World, tmp_path: Path) -> None:
    host = world.pods[0]
    web = pod_of(host)
    api = Api(pods={web.uid: web}, there={web.uid: host})
    with Node(world, tmp_path, api) as node, MeshProxy(node.zds, "--longest-wait=0.1") as proxy:
        proxy.wait("snapshot")
        node.until(web.uid, "captured")
        before = rules(host)
        process = Vandal(tmp_path)(host, "nft", "delete table inet weir-pod")
        eventually(lambda: rules(host) == before, "it is repaired", SECONDS)
        note = f"table-gone: table inet weir-pod is gone, by process {process} (vandal)"
        eventually(lambda: ("web-0", "CaptureDrift", note) in api.events, "it is told", SECONDS)
