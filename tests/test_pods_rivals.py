"""Other agents on the node, and pods that need one, are seen before anything is changed."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.cni.conflist import chained
from agent.errors import ConfigError, WeirError
from agent.pods.rivals import (
    SYSTEM,
    is_new,
    is_taken,
    needs_istio_cni,
    refuse_configurations,
    refuse_pods,
    refuse_sockets,
    warnings_elsewhere,
)
from agent.sources.kubernetes.facts import Pod, pod_of
from tests.cni_folders import CALICO, ISTIO, Folders

ISTIOS = {"k8s-app": "istio-cni-node", "app.kubernetes.io/name": "istio-cni"}
TRUSTED = SYSTEM | {"mesh"}
OURS = {"k8s-app": "istio-cni-node", "app.kubernetes.io/name": "weir"}


def pod(
    name: str,
    labels: dict[str, str] | None = None,
    started: object = None,
    phase: str = "Running",
    status: str = "",
    namespace: str = "shop",
) -> Pod:
    """A pod as the API has it; `started` are the init containers that Istio's injector has noted."""
    noted = json.dumps({"initContainers": started, "containers": ["istio-proxy"], "revision": "default"})
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": name,
        "labels": labels or {},
        "annotations": {"sidecar.istio.io/status": status or noted},
    }
    return pod_of({"metadata": metadata, "spec": {}, "status": {"phase": phase}})


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def listening(stack: ExitStack, path: Path, kind: int) -> socket.socket:
    opened = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
    opened.bind(str(path))
    opened.listen()
    return opened


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
def test_a_listener_is_seen_and_does_not_notice(stack: ExitStack, tmp_path: Path, kind: int) -> None:
    """Istio's agent takes every connection for a proxy, and the newest for the one to tell of pods."""
    path = tmp_path / "s"
    assert not is_taken(path)
    opened = listening(stack, path, kind)
    assert is_taken(path)
    opened.setblocking(False)
    with pytest.raises(BlockingIOError):
        opened.accept()
    opened.close()
    assert path.exists()
    assert not is_taken(path), "nobody listens any more"
    path.unlink()
    path.write_text("")
    assert not is_taken(path)


@pytest.mark.parametrize("name", ["zds", "cni", "istio"])
def test_a_socket_of_another_process_is_refused_by_its_path(stack: ExitStack, tmp_path: Path, name: str) -> None:
    def refuse() -> None:
        refuse_sockets(zds=tmp_path / "zds", cni=tmp_path / "cni", istio=tmp_path / "istio")

    refuse()
    listening(stack, tmp_path / name, socket.SOCK_SEQPACKET if name == "zds" else socket.SOCK_STREAM)
    with pytest.raises(ConfigError, match=f"{tmp_path / name}: another process listens") as refusal:
        refuse()
    assert "istio-cni-node" in refusal.value.hint


def test_a_socket_that_was_handed_over_is_this_processs(stack: ExitStack, tmp_path: Path) -> None:
    listening(stack, tmp_path / "zds", socket.SOCK_SEQPACKET)
    refuse_sockets(zds=tmp_path / "zds", cni=tmp_path / "cni", inherited=True)


def test_istios_entry_is_refused_and_nothing_else_is(tmp_path: Path) -> None:
    refuse_configurations(tmp_path / "missing")
    node = Folders(tmp_path)
    refuse_configurations(node.conf)
    node.write("10-calico.conflist", CALICO)
    node.write("11-broken.conflist", "{")
    before = node.seen()
    refuse_configurations(node.conf)
    node.write("20-istio.conflist", ISTIO)
    with pytest.raises(ConfigError, match=r"20-istio.conflist: has an entry of istio-cni"):
        refuse_configurations(node.conf)
    (node.conf / "20-istio.conflist").unlink()
    assert node.seen() == before


def test_istios_agent_on_this_node_is_refused_by_its_pod_and_ours_is_not() -> None:
    def refused(*pods: Pod, first: bool = True) -> tuple[str, ...]:
        return refuse_pods(pods, first=first, trusted=TRUSTED)

    assert refused(pod("weir-x", OURS), pod("web")) == ()
    for first in (True, False):
        with pytest.raises(ConfigError, match="pod/mesh/istio-cni-node-x: Istio's CNI agent runs on this node"):
            refused(pod("web"), pod("istio-cni-node-x", ISTIOS, namespace="mesh"), first=first)
    assert refused(pod("old", ISTIOS, phase="Failed", namespace="mesh")) == ()
    with pytest.raises(ConfigError, match="pod/kube-system/older"):
        refused(pod("older", {"k8s-app": "istio-cni-node"}, namespace="kube-system"))


def test_a_tenants_pod_with_the_labels_of_istios_agent_keeps_no_node_from_its_agent() -> None:
    for first in (True, False):
        (warning,) = refuse_pods([pod("mine", ISTIOS)], first=first, trusted=TRUSTED)
        assert warning.startswith("pod/shop/mine: labelled as Istio's CNI agent")


def test_a_node_that_was_booted_is_not_new(tmp_path: Path) -> None:
    run = tmp_path / "run"  # empty, as after a boot
    run.mkdir()
    assert is_new(run, tmp_path / "missing")
    node = Folders(tmp_path)
    node.write("10-calico.conflist", CALICO)
    node.write("11-broken.conflist", "{")
    assert is_new(run, node.conf)
    node.write("10-calico.conflist", chained(CALICO, {"type": "weir-cni"}))
    assert not is_new(run, node.conf)
    node.write("10-calico.conflist", CALICO)
    (run / "cni-kubeconfig").touch()
    assert not is_new(run, node.conf), "the agent was here, though another program has taken the entry away"


@pytest.mark.parametrize(
    ("started", "needs"),
    [
        (["istio-init"], False),
        (["istio-init", "istio-proxy"], False),
        (["istio-validation"], True),
        (["istio-validation", "istio-proxy"], True),
        (None, False),  # a gateway
        ([], False),
        ("istio-validation", False),
    ],
)
def test_a_sidecar_that_needs_istios_plugin_is_told_by_what_was_injected(started: object, needs: bool) -> None:
    assert needs_istio_cni(pod("web", started=started)) is needs


@pytest.mark.parametrize("status", ["x", "[]", "1", "{" * 10_000, "[" * 100_000, '{"initContainers": {}}'])
def test_what_an_injector_would_never_note_is_no_sidecar(status: str) -> None:
    assert not needs_istio_cni(pod("web", status=status))


def test_sidecars_that_run_by_it_keep_weir_off_a_node_and_never_stop_one() -> None:
    pods = [pod(f"web-{number}", started=["istio-validation"]) for number in range(7)]
    pods.append(pod("done", started=["istio-validation"], phase="Succeeded"))
    with pytest.raises(ConfigError, match="pod/shop/web-4, and 2 more: sidecars whose redirection istio-cni") as no:
        refuse_pods(pods, first=True, trusted=TRUSTED)
    assert "pilot.cni.enabled=false" in no.value.hint
    (warning,) = refuse_pods(pods, first=False, trusted=TRUSTED)
    assert warning.startswith("pod/shop/web-0, ")
    assert refuse_pods(pods[-1:], first=True, trusted=TRUSTED) == ()


def test_a_sidecar_that_never_ran_is_no_reason_to_let_others_start_outside() -> None:
    """A new node, where such a pod waits for a plugin that was never there."""
    (warning,) = refuse_pods([pod("web", started=["istio-validation"], phase="Pending")], first=True, trusted=TRUSTED)
    assert warning.startswith("pod/shop/web: sidecars")


class Cluster:
    """The cluster's sidecars, or why they can't be told."""

    def __init__(self, *pods: Pod, error: WeirError | None = None) -> None:
        self.pods, self.error = pods, error

    async def sidecars_elsewhere(self, most: int) -> tuple[Pod, ...]:
        if self.error:
            raise self.error
        return self.pods[:most]


def test_sidecars_of_other_nodes_are_warned_of() -> None:
    cluster = Cluster(pod("a", started=["istio-init"]), pod("b", started=["istio-validation"]), pod("c", started=[]))
    (warning,) = asyncio.run(warnings_elsewhere(cluster, ()))
    assert warning.startswith("pod/shop/b: sidecars")
    assert asyncio.run(warnings_elsewhere(cluster, {"b"})) == ()
    (warning,) = asyncio.run(warnings_elsewhere(Cluster(error=WeirError("403: no")), ()))
    assert "403: no" in warning
