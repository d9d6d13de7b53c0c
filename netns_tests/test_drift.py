"""Each kind of drift, made by a real process while traffic goes on: named, with its culprit, counted, and repaired."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netns_tests.clients import exchange
from netns_tests.daemon import Daemon, rules, targets
from netns_tests.proxy import Proxy
from netns_tests.servers import EchoServer
from netns_tests.vandal import Vandal, drifts
from netns_tests.world import World

PORT = 8080


class Scene:
    """A captured pod with traffic, a daemon that doesn't own its table, and who makes trouble."""

    def __init__(self, world: World, daemon: Daemon, proxy: Proxy, vandal: Vandal) -> None:
        self.world, self.pod, self.daemon, self.proxy, self.vandal = world, world.pods[0], daemon, proxy, vandal

    def reaches_the_proxy(self) -> bool:
        self.proxy.captured.clear()
        where = (self.world.outside.v4, PORT)
        exchange(self.pod, where, timeout=5.0)
        return bool(self.proxy.captured.find("outbound", original=where))

    def count(self, kind: str, culprit: str) -> float:
        return self.daemon.metrics().get(("weir_drift_total", (culprit, kind)), 0.0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with ExitStack() as stack:
        world = stack.enter_context(World(1))
        stack.enter_context(EchoServer(world.outside, PORT))
        proxy = stack.enter_context(Proxy(world.pods[0]))
        folder = tmp_path_factory.mktemp("drift")
        text = targets(world.pods, 'when_proxy_absent = "wait"')
        environment = {"XTABLES_LOCKFILE": str(folder / "lock")}
        made = Daemon(folder, text, "--resync", "36000", "--no-own", environment=environment)
        daemon = stack.enter_context(made).start()
        daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is captured")
        yield Scene(world, daemon, proxy, Vandal(folder))


NFT_OUT = "{ type nat hook output priority -150; tcp dport 8080 redirect to :9; }"
REPAIRED = {
    "table-gone by flush": ("table-gone", "nft", ["flush ruleset"], "table inet weir-pod is gone"),
    "table-gone": ("table-gone", "nft", ["delete table inet weir-pod"], "table inet weir-pod is gone"),
    "chain flushed": ("table-changed", "nft", ["flush chain inet weir-pod nat-out"], "chain nat-out: - "),
    "rule added": ("table-changed", "nft", ["insert rule inet weir-pod nat-out accept"], "chain nat-out: + "),
    "counters gone": ("table-changed", "nft", ["flush chain inet weir-pod nat-pre"], "chain nat-pre: - "),
    "policy rule": ("policy-rule", "ip", ["rule", "del", "priority", "32764"], "ip rule: from all fwmark"),
    "policy rule of IPv6": ("policy-rule", "ip", ["-6", "rule", "del", "priority", "32764"], "ip -6 rule: from all"),
    "route": ("route", "ip", ["route", "flush", "table", "100"], "ip route: local 0.0.0.0/0 dev lo table 100 is gone"),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_what_is_repaired_is_told_with_its_culprit(scene: Scene, name: str) -> None:
    kind, program, arguments, said = REPAIRED[name]
    before, told = rules(scene.pod), drifts(scene.daemon)
    nobody, vandal = scene.count(kind, ""), scene.count(kind, "vandal")
    repaired = scene.daemon.metrics()["weir_drift_repair_seconds_count", ()]
    process = scene.vandal(scene.pod, program, *arguments)
    scene.daemon.eventually(lambda: rules(scene.pod) == before, "rules and routes are as before")
    scene.daemon.eventually(lambda: drifts(scene.daemon)[-1:] != told[-1:], "it is told")
    newest = drifts(scene.daemon)[-1]
    assert newest["kind"] == kind
    assert said in newest["said"]
    assert abs(newest["at"] - time.time()) < 600
    if program == "nft":  # of nf_tables the kernel tells who; of rtnetlink a port, whose process may have ended
        assert newest["culprit"] == {"pid": process, "name": "vandal"}
        assert scene.count(kind, "vandal") == vandal + 1
        assert f"by process {process} (vandal)" in scene.daemon.log
    else:
        assert newest["culprit"] in (None, {"pid": process, "name": "vandal"})
        assert newest["culprit"] or f"netlink port {process}" in newest["said"]
        assert scene.count(kind, "") + scene.count(kind, "vandal") == nobody + vandal + 1
    after = ("weir_drift_repair_seconds_count", ())
    scene.daemon.eventually(lambda: scene.daemon.metrics()[after] > repaired, "the repair is counted")
    assert scene.reaches_the_proxy()


def test_a_foreign_chain_that_wins_is_told_and_one_that_does_not_is_not(scene: Scene) -> None:
    told = len([each for each in drifts(scene.daemon) if each["kind"] == "foreign-chain"])
    harmless = "table inet after { chain c { type nat hook output priority -100; tcp dport 8080 redirect to :9; }; }"
    scene.vandal(scene.pod, "nft", harmless)
    scene.vandal(scene.pod, "nft", "table inet beside { chain c { tcp dport 8080 drop; }; }")
    process = scene.vandal(scene.pod, "nft", f"table inet before {{ chain c {NFT_OUT}; }}")
    scene.daemon.eventually(lambda: drifts(scene.daemon)[-1]["kind"] == "foreign-chain", "it is told", 60)
    found = [each for each in drifts(scene.daemon) if each["kind"] == "foreign-chain"]
    assert len(found) == told + 1
    assert "is redirected to 9, by table inet before, c, rule 1" in found[-1]["said"]
    assert found[-1]["culprit"] == {"pid": process, "name": "vandal"}
    scene.pod.nft("delete table inet after; delete table inet beside; delete table inet before")
    scene.daemon.eventually(lambda: scene.daemon.state("t0") == "unchanged", "it is over")
    assert scene.reaches_the_proxy()


def test_rules_of_iptables_are_told_in_both_flavours(scene: Scene) -> None:
    rule = ["-t", "mangle", "-A", "OUTPUT", "-p", "tcp", "--dport", "8080", "-j", "DROP"]
    scene.pod.command("iptables-nft", *rule)
    place = "iptables-nft, mangle/OUTPUT, rule 1"
    scene.daemon.eventually(lambda: place in drifts(scene.daemon)[-1]["said"], "it is told")
    assert drifts(scene.daemon)[-1]["kind"] == "foreign-chain"
    assert drifts(scene.daemon)[-1]["culprit"]["name"].startswith("iptables-nft")
    scene.pod.nft("delete table ip mangle")
    scene.daemon.eventually(lambda: scene.daemon.state("t0") == "unchanged", "it is over")
    scene.pod.command("env", "XTABLES_LOCKFILE=/run/weir-test-drift.lock", "iptables-legacy", *rule)
    # Nothing tells of these: they are polled.
    scene.daemon.eventually(lambda: drifts(scene.daemon)[-1]["kind"] == "legacy-rules", "it is polled")
    assert "iptables-legacy, mangle/OUTPUT, rule 1" in drifts(scene.daemon)[-1]["said"]
    assert drifts(scene.daemon)[-1]["culprit"] is None
    scene.pod.command("env", "XTABLES_LOCKFILE=/run/weir-test-drift.lock", "iptables-legacy", "-t", "mangle", "-F")
    scene.daemon.eventually(lambda: scene.daemon.state("t0") == "unchanged", "that it is over is polled as well")


def test_what_else_defeats_capture_is_told(scene: Scene) -> None:
    scene.pod.sysctl("net/netfilter/nf_conntrack_tcp_loose", 0)
    scene.daemon.eventually(lambda: drifts(scene.daemon)[-1]["kind"] == "sysctl", "it is polled")
    assert drifts(scene.daemon)[-1]["said"].startswith("nf_conntrack_tcp_loose = 0")
    scene.pod.sysctl("net/netfilter/nf_conntrack_tcp_loose", 1)
    process = scene.vandal(scene.pod, "nft", 'table inet theirs { ct helper ftp { type "ftp" protocol tcp; }; }')
    scene.daemon.eventually(lambda: drifts(scene.daemon)[-1]["kind"] == "helper", "it is told")
    assert drifts(scene.daemon)[-1]["culprit"] == {"pid": process, "name": "vandal"}
    scene.pod.nft("delete table inet theirs")


def test_a_family_that_goes_and_comes_back_is_told(scene: Scene) -> None:
    before = rules(scene.pod)
    scene.pod.sysctl("net/ipv6/conf/lo/disable_ipv6", 1)
    scene.daemon.eventually(lambda: drifts(scene.daemon)[-1]["kind"] == "families", "it is told")
    assert "IPv6 can't be captured any more" in drifts(scene.daemon)[-1]["said"]
    scene.pod.sysctl("net/ipv6/conf/lo/disable_ipv6", 0)
    scene.daemon.eventually(lambda: rules(scene.pod) == before, "it is captured again")
    scene.daemon.eventually(lambda: "IPv6 is back" in drifts(scene.daemon)[-1]["said"], "that is told")
    assert scene.reaches_the_proxy()


def test_the_name_of_a_process_is_escaped(scene: Scene, tmp_path: Path) -> None:
    hostile = Vandal(tmp_path, "a\nWARNING \x1b[2J")
    process = hostile(scene.pod, "nft", "delete table inet weir-pod")
    scene.daemon.eventually(lambda: (drifts(scene.daemon)[-1]["culprit"] or {}).get("pid") == process, "it is told")
    assert drifts(scene.daemon)[-1]["culprit"]["name"] == "a\\nWARNING \\x1b[2J"
    assert "\x1b" not in scene.daemon.log
    assert not [line for line in scene.daemon.log.splitlines() if line.startswith("WARNING \\x1b")]
    assert scene.count("table-gone", "a\\nWARNING \\x1b[2J") == 1


def test_a_thousand_flushes_cost_few_passes_and_end_right(scene: Scene) -> None:
    before = rules(scene.pod)

    def passes() -> float:
        return sum(value for (name, _), value in scene.daemon.metrics().items() if name == "weir_passes_total")

    flush = "import nftables, time; c = nftables.Nftables()\n"
    flush += "for _ in range(1000): c.cmd('flush ruleset'); time.sleep(0.002)"
    began, first, told = time.monotonic(), passes(), scene.daemon.log.count(" drift: ")
    scene.pod.command("/usr/bin/python3", "-c", flush)
    scene.daemon.eventually(lambda: rules(scene.pod) == before, "rules and routes are as before")
    scene.daemon.eventually(lambda: scene.daemon.state("t0") == "unchanged", "the daemon says so")
    assert passes() - first <= 10 * (time.monotonic() - began) + 2
    assert scene.daemon.log.count(" drift: ") - told <= 5 + (time.monotonic() - began)
    assert drifts(scene.daemon)[-1]["culprit"]["name"] == "python3"
    assert len(drifts(scene.daemon)) == 8
    assert scene.reaches_the_proxy()
