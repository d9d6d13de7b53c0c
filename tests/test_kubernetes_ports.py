"""The ports at which the node asks a pod, read as the kubelet reads them; whatever is unclear means all of them."""

from ipaddress import ip_address
from typing import Any

import pytest

from agent.pods.probes import targets_of
from agent.sources.kubernetes.facts import pod_of
from agent.sources.kubernetes.ports import probe_ports
from rulesets.host import ProbeTarget

PORTS = [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9090, "protocol": "TCP"}]
TIMING = {"periodSeconds": 1, "failureThreshold": 3, "terminationGracePeriodSeconds": 5}


def container(**parts: object) -> dict[str, object]:
    return {"name": "app", "ports": PORTS, **parts}


def spec(*containers: dict[str, object], **parts: object) -> dict[str, object]:
    return {"containers": list(containers), **parts}


@pytest.mark.parametrize(
    ("given", "ports"),
    [
        (container(), ()),
        (container(readinessProbe={"httpGet": {"port": 8080, "path": "/"}, **TIMING}), (8080,)),
        (
            container(readinessProbe={"httpGet": {"port": "http"}}, livenessProbe={"tcpSocket": {"port": 81}}),
            (81, 8080),
        ),
        (container(startupProbe={"grpc": {"port": 9000, "service": "x"}}), (9000,)),
        (container(livenessProbe={"tcpSocket": {"port": "7070"}}), (7070,)),
        (container(livenessProbe={"exec": {"command": ["true"]}, **TIMING}), ()),
        (container(lifecycle={"preStop": {"httpGet": {"port": "admin"}}, "postStart": {"exec": {}}}), (9090,)),
        (container(lifecycle={"preStop": {"sleep": {"seconds": 3}}}), ()),
        (container(lifecycle={"preStop": {"tcpSocket": {"port": 8080}}}, readinessProbe=None), (8080,)),
    ],
)
def test_ports_that_are_named(given: dict[str, object], ports: tuple[int, ...]) -> None:
    assert probe_ports(spec(given)) == ports


def test_all_containers_count_and_names_are_each_container_s_own() -> None:
    other: dict[str, object] = {
        "name": "b",
        "ports": [{"name": "http", "containerPort": 81}],
        "livenessProbe": {"httpGet": {"port": "http"}},
    }
    sidecar: dict[str, object] = {"name": "c", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 82}}}
    first = container(livenessProbe={"httpGet": {"port": "http"}})
    assert probe_ports(spec(first, other, initContainers=[{"name": "once"}, sidecar])) == (81, 82, 8080)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"containers": []},
        {"containers": "x"},
        {"containers": [7]},
        spec(container(), initContainers={"a": 1}),
        spec(container(readinessProbe={"httpGet": {"port": "metrics"}})),
        spec(container(readinessProbe={"httpGet": {}})),
        spec(container(readinessProbe={"httpGet": {"port": ""}})),
        spec(container(readinessProbe={"httpGet": {"port": "\uff18\uff10"}})),
        spec(container(readinessProbe={"httpGet": {"port": 0}})),
        spec(container(readinessProbe={"httpGet": {"port": 65536}})),
        spec(container(readinessProbe={"httpGet": {"port": True}})),
        spec(container(readinessProbe={"httpGet": {"port": [1]}})),
        spec(container(readinessProbe={"httpGet": "x"})),
        spec(container(readinessProbe="x")),
        spec(container(readinessProbe={"quic": {"port": 80}})),
        spec(container(lifecycle={"preStop": {"quic": {"port": 80}}})),
        spec(container(lifecycle=[])),
        spec({"name": "a", "ports": "x", "readinessProbe": {"httpGet": {"port": "http"}}}),
        spec({"name": "a", "ports": [7], "readinessProbe": {"httpGet": {"port": "http"}}}),
        # One that is clear doesn't make up for one that isn't.
        spec(container(readinessProbe={"httpGet": {"port": 80}}, livenessProbe={"tcpSocket": {"port": "x"}})),
    ],
)
def test_what_can_t_be_told_means_every_port(given: dict[str, object]) -> None:
    assert probe_ports(given) is None


def pod(given: dict[str, object]) -> Any:
    return pod_of(
        {
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
            "spec": given,
            "status": {"podIPs": [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]},
        }
    )


def test_what_is_probed_of_a_pod() -> None:
    v4, v6, early = ip_address("10.0.0.2"), ip_address("fd00::2"), ip_address("10.0.0.9")
    named = pod(spec(container(readinessProbe={"httpGet": {"port": "http"}})))
    assert targets_of(named) == tuple(ProbeTarget(address=each, owner="u-1", ports=(8080,)) for each in (v4, v6))
    assert targets_of(named, [early]) == (ProbeTarget(address=early, owner="u-1", ports=(8080,)),)
    unclear = pod(spec(container(readinessProbe={"httpGet": {"port": "x"}})))
    assert targets_of(unclear) == tuple(ProbeTarget(address=each, owner="u-1") for each in (v4, v6))
    assert targets_of(pod(spec(container()))) == ()
