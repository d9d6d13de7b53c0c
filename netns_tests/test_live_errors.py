"""What goes wrong is said in words and leaves things as they were; what isn't Weir's is never touched."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from agent.targets import Outcome, State
from netns_tests.enrolling import Weir, capture, kernel_state, ways
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.traffic import EchoServer, exchange
from netns_tests.world import Host, World, eventually

CAPTURED, DIRECT = ["captured"] * 4, ["direct"] * 4
OWNER = """
import sys, nftables
context = nftables.Nftables()
code, _, said = context.cmd(sys.argv[1])
print(code, said, flush=True)
sys.stdin.read()
"""
# Tables of others, with all that a careless list or reload would change.
FOREIGN = """
table ip nat {
    chain PREROUTING {
        type nat hook prerouting priority -100
        tcp dport 31000 counter dnat to 10.0.1.2:8080
    }
    chain OUTPUT {
        type nat hook output priority -100
        ip daddr 10.96.0.10 counter dnat to 10.99.0.2
    }
}
table inet others {
    set addresses { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }
    map ports { type inet_service : verdict; elements = { 7 : drop, 9 : accept }; }
    counter seen { packets 5 bytes 500; }
    chain in {
        type filter hook input priority 0
        tcp dport vmap @ports
        ip saddr @addresses counter name seen drop
    }
}
table ip6 weir-pod {
    chain out {
        type filter hook output priority 0
        ip6 daddr 2001:db8::1 drop
    }
}
table netdev early {
    chain in {
        type filter hook ingress device eth0 priority 0
        ip saddr 192.0.2.1 drop
    }
}
"""
OTHERS = [("ip", "nat"), ("inet", "others"), ("ip6", "weir-pod"), ("netdev", "early")]
TAMPERED = {
    "rule": "insert rule inet weir-pod nat-out tcp dport 4711 accept",
    "unnamed counter": 'add rule inet weir-pod nat-pre udp dport 9 counter log prefix "x" drop',
    "chain": "add chain inet weir-pod mine { type filter hook input priority 7; policy accept; }",
    "jump": "add chain inet weir-pod side; add rule inet weir-pod nat-out jump side",
    "set": "add set inet weir-pod mine { type ether_addr; flags timeout; }",
    "element": "add element inet weir-pod exclude-outbound-ports { 22 }",
    "map": "add map inet weir-pod mine { type ipv4_addr : verdict; }",
    "counter": "add counter inet weir-pod mine",
    "policy": "chain inet weir-pod nat-out { policy drop; }",
    "flushed": "flush table inet weir-pod",
    "rule gone": "flush chain inet weir-pod nat-pre",
    "chain gone": "delete chain inet weir-pod nat-out",
    "table gone": "delete table inet weir-pod",
    "another place": "delete chain inet weir-pod nat-out\n"
    "add chain inet weir-pod nat-out { type filter hook output priority 5; policy accept; }",
}


@contextmanager
def owned_by_another(pod: Namespace) -> Iterator[None]:
    """Have another process own Weir's table for a while."""
    script = """add table inet weir-pod { flags owner; }
        add chain inet weir-pod theirs { type filter hook input priority 0; }
        add rule inet weir-pod theirs tcp dport 7 drop"""
    process = pod.spawn([sys.executable, "-c", OWNER, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"0 \n"
    yield
    process.stdin.close()
    process.wait()
    eventually(lambda: "weir-pod" not in pod.command("nft", "list", "tables"), "the table goes with its owner")


def others(pod: Namespace) -> str:
    return "\n".join(pod.command("nft", "-a", "list", "table", *table) for table in OTHERS)


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.state is State.FAILED
    assert [each for each in words if each not in outcome.reason] == []
    assert outcome.hint


def test_a_table_of_another_owner_is_named_and_left(world: World, pod: Host, weir: Weir) -> None:
    with Proxy(pod):
        with owned_by_another(pod):
            before = kernel_state(pod)
            refused(weir.capture(), "Operation not permitted", "is owned by process", "inet weir-pod")
            assert kernel_state(pod) == before
            refused(weir.remove(), "is owned by process")
            assert kernel_state(pod) == before
        assert weir.capture().state is State.APPLIED
        assert ways(world, pod) == CAPTURED


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_route_table_of_somebody_else_is_refused(world: World, pod: Host, weir: Weir, family: str) -> None:
    route = "192.0.2.0/24" if family == "-4" else "2001:db8::/32"
    pod.command("ip", family, "route", "add", route, "dev", "eth0", "table", "100")
    before = kernel_state(pod)
    with Proxy(pod):
        refused(weir.capture(), "route table 100 holds routes that aren't Weir's")
        assert kernel_state(pod) == before
        assert weir.capture(route_table=101).state is State.APPLIED
        assert ways(world, pod) == CAPTURED
        assert weir.remove().state is State.REMOVED
    assert kernel_state(pod) == before


def test_the_same_rule_of_somebody_else_is_theirs(world: World, pod: Host, weir: Weir) -> None:
    # The kernel keeps both, since their protocol numbers differ, and takes ours away by its number.
    pod.command("ip", "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100")
    before = kernel_state(pod)
    with Proxy(pod):
        assert weir.capture().state is State.APPLIED
        assert weir.capture().state is State.UNCHANGED
        assert ways(world, pod) == CAPTURED
        assert weir.remove().state is State.REMOVED
    assert kernel_state(pod) == before


def test_a_namespace_that_went_away_is_missing(world: World, pod: Host, weir: Weir) -> None:
    with Proxy(pod):
        weir.capture()
    pod.delete()
    for outcome in (weir.capture(), weir.remove()):
        assert outcome.state is State.FAILED
        assert f"netns = '{pod.name}'" in outcome.reason
        assert "no longer leads to" in outcome.reason


def test_a_namespace_deleted_half_way_is_missing_from_then_on(world: World, tmp_path: Path) -> None:
    # At a moment of chance within a reconcile, some of them; every one ends with an outcome.
    wishes = [capture(when_proxy_absent="capture"), capture(when_proxy_absent="capture", exclude_outbound_ports=[9])]
    for number in range(12):
        victim = Namespace.create("victim")
        with Weir(victim, tmp_path) as weir:
            outcomes: list[Outcome] = []

            def work(weir: Weir = weir, outcomes: list[Outcome] = outcomes) -> None:
                while not outcomes or outcomes[-1].state is not State.FAILED:
                    outcomes.append(weir.capture(wishes[len(outcomes) % 2]))

            worker = threading.Thread(target=work)
            worker.start()
            eventually(partial(_as_many, outcomes, number // 2 + 1), "some reconciles")
            victim.delete()
            worker.join(10)
            assert not worker.is_alive()
            assert "no longer leads to" in outcomes[-1].reason


def _as_many(outcomes: list[Outcome], goal: int) -> bool:
    return len(outcomes) >= goal


def test_another_namespace_of_the_same_name_is_not_taken_for_the_first(tmp_path: Path) -> None:
    with Namespace.create("first") as first, Namespace.create("second") as second, Weir(first, tmp_path) as weir:
        before = kernel_state(second)
        subprocess.run(["mount", "--bind", str(second.path), str(first.path)], check=True)
        try:
            outcome = weir.capture(when_proxy_absent="capture")
            assert outcome.state is State.FAILED
            assert "no longer leads to" in outcome.reason
            assert kernel_state(second) == before
        finally:
            subprocess.run(["umount", str(first.path)], check=True)


def test_what_somebody_did_to_the_table_is_shown_and_undone(world: World, pod: Host, weir: Weir) -> None:
    wanted = {"exclude_outbound_ports": [9, "100-200"]}
    with Proxy(pod), EchoServer(world.outside) as server:
        weir.capture(**wanted)
        clean = kernel_state(pod)
        for what, script in TAMPERED.items():
            assert not exchange(pod, (world.outside.v4, server.port)).direct
            before = weir.call(weir.handle.read, "weir-pod")
            assert before is not None
            redirected = next(each.packets for each in before.counters if each.name == "outbound-redirect")
            assert redirected > 0
            pod.nft(script)
            outcome = weir.capture(**wanted)
            assert outcome.state is State.APPLIED, f"{what}: {outcome.reason}"
            assert outcome.plan is not None
            assert outcome.plan.rules.describe(), what
            assert kernel_state(pod) == clean, what
            after = weir.call(weir.handle.read, "weir-pod")
            assert after is not None
            if what != "table gone":
                assert next(each.packets for each in after.counters if each.name == "outbound-redirect") >= redirected
        assert weir.capture(**wanted).state is State.UNCHANGED
        assert ways(world, pod) == CAPTURED


def test_what_belongs_to_others_is_byte_equal_all_the_time(world: World, pod: Host, weir: Weir) -> None:
    pod.nft(FOREIGN)
    pod.ip(
        "rule add fwmark 0x222/0xfff pref 32764 lookup 200 protocol boot",
        "route add local 192.0.2.0/24 dev lo table 200",
    )
    pod.command("ip", "-6", "rule", "add", "from", "2001:db8::/32", "pref", "32765", "lookup", "200")
    before, theirs = kernel_state(pod), others(pod)
    settings = before[before.index("/proc/sys") :]
    with Proxy(pod):
        for values in ({}, {"dns": False, "exclude_inbound_ports": [22]}, {"inbound": False}, {}):
            assert weir.capture(**values).state is State.APPLIED
            applied = kernel_state(pod)
            assert applied != before
            assert applied[applied.index("/proc/sys") :] == settings
            assert others(pod) == theirs
        assert weir.remove().state is State.REMOVED
    assert (kernel_state(pod), others(pod)) == (before, theirs)
