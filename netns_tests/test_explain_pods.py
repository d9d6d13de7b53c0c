"""`weir explain pod/NAMESPACE/NAME`, and `verify --probe` of one: what decided, where it is, whether it is captured."""

from collections.abc import Iterator

import pytest

from netns_tests.enrolling import slow
from netns_tests.mesh_proxy_process import MeshProxy
from netns_tests.node.stage import Node
from tests.cni import AMBIENT

NAME = "pod/shop/web-0"
pytestmark = pytest.mark.timeout(600)  # the first one builds the plugin


@pytest.fixture
def node() -> Iterator[Node]:
    with Node() as made:
        made.label(AMBIENT)
        yield made


def test_pods_are_explained(node: Node) -> None:
    weir = node.agent.weir
    with MeshProxy(node.agent.zds, "--longest-wait=0.1", f"--drain={slow(20)}") as proxy:
        node.agent.start(ready=False)
        proxy.wait("snapshot")
        node.start("web-0")
        node.wait_for("captured", "web-0")
        done = weir("explain", NAME)
        assert (done.code, done.err) == (0, ""), done
        first, *rest, last = done.out.splitlines()
        assert (first, last) == (f"{NAME} is captured.", "nothing to do")
        said = " ".join(" ".join(rest).split())
        assert "ok wanted enrolled: " in said
        assert "istio.io/dataplane-mode" in said
        walked = weir("explain", NAME, "--packet", "out tcp 192.0.2.7:443")
        assert (walked.code, walked.out.splitlines()[0].startswith(f"{NAME}: the packet is captured: ")) == (0, True)
        proved = weir.json("verify", "--probe", NAME)
        captured = {(each["direction"], each["family"]): each["captured"] for each in proved.json["probes"]}
        assert captured["outbound", "ipv4"] is True, proved.out
        assert captured["inbound", "ipv4"] is True, proved.out
        assert proved.code == 0
        node.start("client", labels={"istio.io/dataplane-mode": "none"})
        out = weir("explain", "pod/shop/client")
        assert out.code == 1, out
        assert out.out.startswith(
            "pod/shop/client is not captured: outside: its label istio.io/dataplane-mode=none takes it out."
        )
        label = "`kubectl label --overwrite pod -n shop client istio.io/dataplane-mode=ambient` has it captured"
        assert out.out.splitlines()[-1] == label
    lost = weir("explain", "pod/shop/nobody")
    assert (lost.code, lost.err.splitlines()[0]) == (
        2,
        "weir: target 'pod/shop/nobody': no pod of this node is called so",
    )
