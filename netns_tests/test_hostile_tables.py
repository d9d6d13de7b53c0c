"""Who may change a pod's rules chooses the names in Weir's table: they are data, never commands, never a crash."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.attributes import attribute
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.targets import State
from netns_tests.daemon import CAPTURE, Daemon, targets
from netns_tests.enrolling import Weir
from netns_tests.kernel_tables import opened
from netns_tests.namespace import Namespace
from rulesets import pod
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.netlink import OWNED
from rulesets.netlink import constants as c
from rulesets.pod import POD_TABLE

RULES = pod.build(Capture())
_HEADER = struct.Struct("=IHHII")
DORMANT = 1


@pytest.fixture
def namespace(root: None) -> Iterator[Namespace]:
    with Namespace.create("hostile") as made:
        yield made


def message(kind: int, flags: int, sequence: int, family: int, resource: int, body: bytes = b"") -> bytes:
    head = _HEADER.pack(20 + len(body), kind, flags, sequence, 0)
    return head + struct.pack(">BBH", family, 0, resource) + body


def make(namespace: Namespace, flags: int, chain: bytes) -> None:
    """A table called as Weir's with a chain of any name, which nft itself would not make."""
    table = attribute(c.NFTA_TABLE_NAME, POD_TABLE.encode() + b"\0")
    named = attribute(c.NFTA_CHAIN_TABLE, POD_TABLE.encode() + b"\0") + attribute(c.NFTA_CHAIN_NAME, chain + b"\0")
    kind, create = c.NFNL_SUBSYS_NFTABLES << 8, c.NLM_F_REQUEST | c.NLM_F_CREATE
    with opened(namespace) as netlink:
        receipts = netlink.exchange(
            message(c.NFNL_MSG_BATCH_BEGIN, c.NLM_F_REQUEST, 0, 0, c.NFNL_SUBSYS_NFTABLES)
            + message(
                kind, create, 1, c.NFPROTO_INET, 0, table + attribute(c.NFTA_TABLE_FLAGS, struct.pack(">I", flags))
            )
            + message(kind | c.NFT_MSG_NEWCHAIN, create | c.NLM_F_ACK, 2, c.NFPROTO_INET, 0, named)
            + message(c.NFNL_MSG_BATCH_END, c.NLM_F_REQUEST, 3, 0, c.NFNL_SUBSYS_NFTABLES),
            last=2,
        )
    assert [each.errno for each in receipts] == [0]


HOSTILE = [b"x\xff", b"x; add table ip pwned", b'x; include "/etc/hostname"', b"counter", b"-1", b"\xc3\xa4"]


@pytest.mark.parametrize("flags", [0, DORMANT], ids=["plain", "dormant"])
@pytest.mark.parametrize("chain", HOSTILE, ids=repr)
def test_a_name_is_read_as_foreign_and_replaced(namespace: Namespace, tmp_path: Path, chain: bytes, flags: int) -> None:
    make(namespace, flags, chain)
    with Weir(namespace, tmp_path) as weir:
        found = weir.call(weir.handle.read, POD_TABLE)
        assert found is not None
        assert found.foreign
        assert weir.capture(when_proxy_absent="capture", dns=False).state is State.DEGRADED  # nothing listens
        assert weir.call(weir.handle.read, POD_TABLE) == pod.build(
            Capture.parse({"when_proxy_absent": "capture", "dns": False})
        )
    assert "pwned" not in namespace.command("nft", "list", "tables")


def test_a_daemon_survives_it(namespace: Namespace, tmp_path: Path) -> None:
    make(namespace, 0, b"x\xff")
    with Daemon(tmp_path, targets([namespace], CAPTURE)).start() as daemon:
        daemon.eventually(lambda: "outbound-redirect" in namespace.command("nft", "list", "ruleset"), "it is captured")
        assert daemon.process is not None
        assert daemon.process.poll() is None


def test_an_orphan_that_loses_a_chain_is_owned_again_and_its_counters_go_on(namespace: Namespace) -> None:
    """The kernel refuses flags in a batch that takes a base chain away."""
    first = Handle(Netns(namespace.name), flags=OWNED)
    first.apply(diff(None, RULES))
    first.close()
    fewer = pod.build(Capture(dns=False))
    assert len(fewer.chains) < len(RULES.chains)
    second = Handle(Netns(namespace.name), flags=OWNED)
    try:
        second.apply(diff(second.look(POD_TABLE), fewer))
        assert second.read(POD_TABLE) == fewer
        assert "flags owner" in namespace.command("nft", "list", "table", "inet", POD_TABLE)
        second.apply(diff(second.look(POD_TABLE), None))
        assert second.read(POD_TABLE) is None
    finally:
        second.close()
