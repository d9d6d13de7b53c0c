"""Traces of real enrolments, taken by a real collector; and that nobody waits for one that is away."""

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from agent.observe import spans
from agent.observe.otlp_settings import settings
from netns_tests.command import Command
from netns_tests.daemon import Daemon, targets
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.namespace import Namespace
from netns_tests.pods_api import Api, pod_of
from netns_tests.pods_node import SECONDS, Node
from netns_tests.world import Host, World
from tests.collector import Collector, Told, tree

WEB = pod_of(None)
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "b3": f"{'a' * 32}-{SPAN}-1"}
CHILDREN = [
    "apply",
    "find sandbox",
    "proxy acknowledgement",
    "put probes",
    "queue",
    "read back",
    "wait for worker",
    "write status",
]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        found = settings({"OTEL_EXPORTER_OTLP_ENDPOINT": running.url, "OTEL_BSP_SCHEDULE_DELAY": "10"})
        assert found is not None
        spans.start(found)
        yield running
        spans.stop()


def named(told: list[Told], name: str) -> Told:
    [found] = [each for each in told if each.name == name]
    return found


def test_one_trace_shows_the_whole_enrolment_of_a_pod(
    world: World, pod: Host, tmp_path: Path, collector: Collector
) -> None:
    with Node(world, tmp_path, Api(pods={WEB.uid: WEB})) as node, MeshProxy(node.zds) as proxy:
        proxy.wait("snapshot")
        status, answer = node.ask("add", WEB, pod, headers=PARENT)
        assert (status, answer["verdict"]) == (200, "captured"), answer
        told = collector.until(lambda told: any(each.name == "enrol" for each in told), "the whole trace")
        assert tree(told) == {f"remote {SPAN}": ["enrol"], "enrol": CHILDREN}
        assert {each.trace for each in told} == {TRACE}
        root = named(told, "enrol")
        assert (root.kind, root.error) == (2, "")
        assert root.attributes == {
            "k8s.namespace.name": "shop",
            "k8s.pod.name": "web-0",
            "k8s.pod.uid": WEB.uid,
            "weir.source": "cni",
            "weir.target": "pod/shop/web-0",
        }
        assert {"answered", "captured"} <= {*root.events}
        apply = named(told, "apply").attributes
        assert apply["weir.state"] == "applied"
        assert apply["weir.rules"] > 10
        assert apply["weir.batch.bytes"] > 1000
        assert apply["weir.families"] == ("ipv4", "ipv6")
        order = ["queue", "find sandbox", "apply", "read back"]
        starts = [named(told, each).start for each in order]
        assert starts == sorted(starts)
        assert named(told, "proxy acknowledgement").end <= named(told, "apply").start
        assert all(root.start <= each.start <= each.end <= root.end for each in told)
        tracer = spans.tracer()
        assert tracer is not None
        assert (tracer.open, tracer.conflicting) == ({}, 1)
        encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
        assert TRACE in encode(registry_of(node)).decode()  # the answer's time has it as exemplar


def test_no_header_of_a_trace_keeps_a_pod_from_starting(
    world: World, pod: Host, tmp_path: Path, collector: Collector
) -> None:
    bad = {"traceparent": "00-" + "f" * 20_000, "tracestate": "x" * 20_000, "b3": "\xff\xfe", "x-b3-traceid": TRACE}
    with Node(world, tmp_path, Api(pods={WEB.uid: WEB})) as node, MeshProxy(node.zds) as proxy:
        proxy.wait("snapshot")
        assert node.ask("add", WEB, pod, headers=bad)[0] == 200
        told = collector.until(lambda told: any(each.name == "enrol" for each in told), "a trace all the same")
        assert named(told, "enrol").parent == ""
        tracer = spans.tracer()
        assert tracer is not None
        assert tracer.unreadable == 3


def test_what_a_restart_takes_up_has_a_trace_that_ends(
    world: World, pod: Host, tmp_path: Path, collector: Collector
) -> None:
    api = Api(pods={WEB.uid: WEB})
    with Node(world, tmp_path, api) as node, MeshProxy(node.zds) as proxy:
        proxy.wait("snapshot")
        assert node.add(WEB, pod)[0] == 200
        collector.until(lambda told: any(each.name == "enrol" for each in told), "the first trace")
        node.put(pod_of(pod, annotations=api.pods[WEB.uid].annotations))
    with Node(world, tmp_path, api) as node, MeshProxy(node.zds):
        node.until(WEB.uid, "captured")
        told = collector.until(lambda told: sum(each.name == "enrol" for each in told) == 2, "the second trace")
        assert [each.attributes["weir.source"] for each in told if each.name == "enrol"] == ["cni", "restart"]
        assert not [each.error for each in told if each.error]


def registry_of(node: Node) -> CollectorRegistry:
    return node.cluster._around.registry


def test_a_pod_without_a_proxy_is_refused_and_its_trace_says_why(
    world: World, pod: Host, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.pods import answers

    monkeypatch.setattr(answers, "PATIENCE", 0.5)
    with Node(world, tmp_path, Api(pods={WEB.uid: WEB})) as node:
        assert node.ask("add", WEB, pod)[0] == 409
        told = collector.until(lambda told: any(each.name == "enrol" for each in told), "the trace")
        root = named(told, "enrol")
        assert "no proxy" in root.error
        assert root.parent == ""
        assert "apply" not in {each.name for each in told}


def test_a_running_pod_that_is_labelled_has_a_trace_from_the_api_on(
    world: World, pod: Host, tmp_path: Path, collector: Collector
) -> None:
    running = pod_of(pod)
    api = Api(pods={running.uid: running}, there={running.uid: pod})
    with Node(world, tmp_path, api) as node, MeshProxy(node.zds) as proxy:
        proxy.wait("snapshot")
        node.until(running.uid, "captured")
        told = collector.until(lambda told: any(each.name == "enrol" for each in told), "the trace")
        root = named(told, "enrol")
        assert (root.attributes["weir.source"], root.kind) == ("api", 1)
        assert {"apply", "read back", "write status"} <= {*tree(told)["enrol"]}


ENVIRONMENT = {"OTEL_BSP_SCHEDULE_DELAY": "10", "LOG_AS_JSON": "true", "OTEL_SERVICE_NAME": "edge"}


def test_a_target_of_the_file_has_a_trace_for_each_pass_that_matters(world: World, tmp_path: Path) -> None:
    with Collector() as running, Namespace.create("one") as one:
        environment = {**ENVIRONMENT, "OTEL_EXPORTER_OTLP_ENDPOINT": running.url}
        with Daemon(tmp_path, targets([one]), "--no-own", environment=environment) as daemon:
            daemon.start()
            told = running.until(lambda told: any(each.name == "pass" for each in told), "a pass")
            assert tree(told) == {"": ["pass"], "pass": ["apply", "read back", "wait for worker"]}
            root = named(told, "pass")
            assert root.attributes["weir.target"] == "t0"
            assert running.requests[0].resource["service.name"] == "edge"
            lines = [json.loads(line) for line in daemon.log.splitlines()]
            line = next(each for each in lines if each["msg"].startswith("target t0 "))
            assert line["trace_id"] == root.trace
            one.command("nft", "flush", "ruleset")
            told = running.until(lambda told: sum(each.name == "pass" for each in told) == 2, "the repair's trace")
            assert len({each.trace for each in told}) == 2
            found = daemon.get("/metrics")[1]
            assert 'weir_spans_dropped_total{reason="full"} 0.0' in found
            daemon.client.apply(("t0",))  # finds all as wanted, which is no news
            asked = {**environment, "TRACEPARENT": PARENT["traceparent"]}
            done = Command(daemon.directory, environment=asked)("apply", "t0", "--file", str(daemon.file))
            assert done.code in (0, 1), done
            told = running.until(lambda told: any(each.trace == TRACE for each in told), "what somebody waited for")
            assert [each.parent for each in told if each.name == "pass"] == ["", "", SPAN]


def test_a_daemon_whose_collector_is_away_captures_as_ever_and_stops_at_once(tmp_path: Path) -> None:
    with socket.socket() as nobody, Namespace.create("one") as one:
        nobody.bind(("127.0.0.1", 0))
        nobody.listen()  # takes the connection and never answers
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        environment = {"OTEL_BSP_SCHEDULE_DELAY": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        with Daemon(tmp_path, targets([one]), environment=environment) as daemon:
            daemon.start()
            assert daemon.state("t0") in ("applied", "unchanged", "degraded")
            began = time.monotonic()
            assert daemon.end() == 0
            assert time.monotonic() - began < SECONDS


def test_without_an_endpoint_nothing_of_tracing_is_there(tmp_path: Path) -> None:
    with Namespace.create("one") as one, Daemon(tmp_path, targets([one])) as daemon:
        daemon.start()
        assert "weir_spans" not in daemon.get("/metrics")[1]
        assert not re.search("trace", daemon.log)
        tasks = Path(f"/proc/{daemon.pid}/task").iterdir()
        assert "spans" not in {(each / "comm").read_text().strip() for each in tasks}
