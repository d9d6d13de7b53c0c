"""Rules of others that are met before Weir's: what they take is foretold, and what takes nothing isn't mentioned."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.rivals import earlier_chains, legacy_tables
from agent.rivals.reading import rivals
from netns_tests.clients import exchange
from netns_tests.command import Command
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.servers import EchoServer
from netns_tests.world import Host, World
from rulesets import nft
from rulesets import pod as pods
from rulesets.capture import Capture

PORT, OTHER = 8080, 8081
WHERE = "10.0.0.5:40000 to 10.9.0.1:8080 tcp, new, outgoing"
MARKED = "-m tcp --dport 8080 -j MARK --set-xmark 0x539/0xffffffff"


def mangle(flavour: str) -> list[str]:
    return [f"iptables-{flavour}", "-t", "mangle", "-A", "OUTPUT", "-p", "tcp", *MARKED.split()]


def table(family: str, chain: str, rule: str) -> list[str]:
    made = f"add table {family} theirs; add chain {family} theirs first {{ {chain} }}"
    return ["nft", f"{made}; add rule {family} theirs first {rule}"]


# What takes connections to port 8080 from the proxy: the command that puts it there, whose it is said to be, and what
# is said to become of the packet.
TAKING: dict[str, tuple[list[str], str, str]] = {
    "nft marks": (
        table("inet", "type route hook output priority -150;", "tcp dport 8080 meta mark set 0x539"),
        "table inet theirs, first, rule 1",
        "goes past the proxy",
    ),
    "nft accepts untracked": (
        table("inet", "type filter hook output priority -300;", "tcp dport 8080 notrack"),
        "table inet theirs, first, rule 1",
        "goes past the proxy, untracked",
    ),
    "nft redirects": (
        table("inet", "type nat hook output priority -110;", "meta nfproto ipv4 tcp dport 8080 dnat ip to 127.0.0.1:9"),
        "table inet theirs, first, rule 1",
        "is sent to 127.0.0.1, port 9",
    ),
    "nft drops": (
        table("inet", "type filter hook output priority -100;", "tcp dport 8080 drop"),
        "table inet theirs, first, rule 1",
        "is dropped",
    ),
    "iptables-nft": (mangle("nft"), "iptables-nft, mangle/OUTPUT, rule 1", "goes past the proxy"),
    "iptables-legacy": (mangle("legacy"), "iptables-legacy, mangle/OUTPUT, rule 1", "goes past the proxy"),
    "iptables-legacy raw": (
        ["iptables-legacy", "-t", "raw", "-A", "OUTPUT", "-p", "tcp", "--dport", "8080", "-j", "DROP"],
        "iptables-legacy, raw/OUTPUT, rule 1",
        "is dropped",
    ),
}
# What is met first, or is about the same packets, and takes none.
LEAVING: dict[str, list[str]] = {
    "nft behind": table("inet", "type nat hook output priority -100;", "tcp dport 8080 dnat ip to 127.0.0.1:9"),
    "nft of another mark": table(
        "inet", "type route hook output priority -150;", "tcp dport 8080 meta mark set meta mark or 0x8000"
    ),
    "iptables-nft nat": ["iptables-nft", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "9"],
    "iptables-legacy nat": [
        *("iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "9"),
    ],
    "iptables-legacy of another mark": [*mangle("legacy")[:-1], "0x4000/0x4000"],
    "iptables-nft logs": ["iptables-nft", "-t", "mangle", "-A", "OUTPUT", "-p", "tcp", "-j", "NFLOG"],
}


@pytest.fixture
def proxy(pod: Host) -> Iterator[Proxy]:
    with Proxy(pod) as running:
        yield running


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A lock of iptables' programs that is the test's own."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    return {"XTABLES_LOCKFILE": str(tmp_path / "xtables.lock")}


@pytest.fixture
def weir(tmp_path: Path, lock: dict[str, str]) -> Command:
    return Command(tmp_path / "run", environment=lock)


def reached(world: World, pod: Host, proxy: Proxy, port: int) -> bool:
    """Tell whether a connection of the pod to the outside is one that the proxy sees."""
    proxy.captured.clear()
    where = (world.outside.v4, port)
    with EchoServer(world.outside, port), contextlib.suppress(OSError):
        exchange(pod, where, timeout=1.0)
    return bool(proxy.captured.find("outbound", original=where))


@pytest.mark.parametrize("name", TAKING)
def test_what_takes_a_connection_is_foretold_with_its_rule(
    world: World, pod: Host, proxy: Proxy, weir: Command, name: str
) -> None:
    command, place, fate = TAKING[name]
    assert weir("apply", "--netns", pod.name).code == 0
    assert reached(world, pod, proxy, PORT)
    assert weir.json("verify", "--netns", pod.name).target["rivals"] == []
    pod.command(*command)
    assert not reached(world, pod, proxy, PORT)
    assert reached(world, pod, proxy, OTHER)
    found = weir.json("status", "--netns", pod.name)
    (rival,) = found.target["rivals"]
    assert (rival["certain"], rival["place"], rival["packet"], rival["fate"]) == (True, place, WHERE, fate)
    assert "8080" in rival["rule"]
    assert (found.code, found.target["state"], found.target["captured"]) == (0, "degraded", False)
    done = weir("verify", "--netns", pod.name)
    assert done.code == 1
    assert f"  not rivals    1 rule of others changes what is captured: {WHERE} {fate}, by {place}: " in done.out
    shown = weir("status", "--netns", pod.name)
    assert f"{WHERE} {fate}, by {place}: {rival['rule']}" in shown.out


@pytest.mark.parametrize("name", LEAVING)
def test_what_takes_nothing_is_not_mentioned(world: World, pod: Host, proxy: Proxy, weir: Command, name: str) -> None:
    assert weir("apply", "--netns", pod.name).code == 0
    pod.command(*LEAVING[name])
    assert reached(world, pod, proxy, PORT)
    done = weir("verify", "--netns", pod.name)
    assert (done.code, done.err) == (0, "")
    assert "  ok  rivals    no rule of others changes what is captured\n" in done.out
    assert weir.json("status", "--netns", pod.name).target["rivals"] == []


@pytest.mark.parametrize("flavour", ["nft", "legacy"])
def test_what_nobody_can_tell_is_a_warning(pod: Host, proxy: Proxy, weir: Command, flavour: str) -> None:
    assert weir("apply", "--netns", pod.name).code == 0
    half = ("-m", "statistic", "--mode", "random", "--probability", "0.5")
    pod.command(f"iptables-{flavour}", "-t", "mangle", "-A", "OUTPUT", "-p", "tcp", *half, "-j", "DROP")
    done = weir("verify", "--netns", pod.name)
    assert done.code == 0
    assert "  ok  rivals    1 rule of others may change what is captured: " in done.out
    assert "statistic" in done.out
    found = weir.json("status", "--netns", pod.name)
    (rival,) = found.target["rivals"]
    assert (rival["certain"], rival["place"]) == (False, f"iptables-{flavour}, mangle/OUTPUT, rule 1")
    assert "statistic" in rival["why"]
    assert found.target["state"] == "unchanged"


def test_rules_that_no_program_can_read_are_a_warning(pod: Host, proxy: Proxy, weir: Command, tmp_path: Path) -> None:
    assert weir("apply", "--netns", pod.name).code == 0
    pod.command(*mangle("legacy"))
    # A program of that name that isn't one is found first.
    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin/iptables-legacy-save"
    broken.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    broken.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    without = Command(weir.directory, environment={"PATH": path, **(weir.environment or {})})
    done = without("verify", "--netns", pod.name)
    assert done.code == 0
    assert (
        "1 rule of others may change what is captured: any packet, by iptables-legacy (its rules can't be read"
        in done.out
    )


def modules() -> set[str]:
    """Return the kernel's modules; none on a kernel that has none."""
    listed = Path("/proc/modules")
    return {line.split()[0] for line in listed.read_text().splitlines()} if listed.exists() else set()


def test_nothing_is_started_or_loaded_where_iptables_is_not_used(
    pod: Host, proxy: Proxy, weir: Command, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    for flavour in ("legacy", "nft"):
        for name in ("iptables", "ip6tables"):
            spy = tmp_path / f"bin/{name}-{flavour}-save"
            spy.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
            spy.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    spied = Command(weir.directory, environment={"PATH": path})
    pod.nft("table inet theirs { chain first { type filter hook output priority -300; tcp dport 8080 drop; }; }")
    before = modules()
    assert spied("apply", "--netns", pod.name).code == 0
    assert spied("verify", "--netns", pod.name).code == 1
    assert spied("status", "--netns", pod.name).code == 0
    assert not (tmp_path / "started").exists()
    assert not {each for each in modules() - before if "table" in each}
    assert pod.command("sh", "-c", "cat /proc/net/ip_tables_names 2>/dev/null || true") == ""


def test_chains_that_hold_nothing_are_not_read() -> None:
    ours = pods.build(Capture())
    with Namespace.create("rivals") as place:
        handle = Handle(Netns(place.name))
        try:
            place.nft(nft.render(ours))
            assert earlier_chains(handle, ours) == ()
            for chain in (
                "inet empty { chain first { type filter hook output priority -300; }; }",
                "inet later { chain first { type nat hook output priority -100; accept; }; }",
                "inet aside { chain first { type filter hook forward priority -300; accept; }; }",
                "bridge beside { chain first { type filter hook prerouting priority -300; accept; }; }",
            ):
                place.nft(f"table {chain}")
            assert earlier_chains(handle, ours) == ()
            assert rivals(handle, ours) == ()
            place.nft("table inet drops { chain first { type filter hook output priority -300; policy drop; }; }")
            (found,) = earlier_chains(handle, ours)
            assert (found.table.name, found.name, found.hook, found.priority, found.drops) == (
                "drops",
                "first",
                3,
                -300,
                True,
            )
            (rival,) = rivals(handle, ours)[:1]
            assert (rival.certain, rival.fate, rival.place) == (True, "is dropped", "table inet drops, first, policy")
            assert legacy_tables(handle) == ()
        finally:
            handle.close()


def test_before_anything_is_applied_it_is_foretold_too(pod: Host, proxy: Proxy, weir: Command) -> None:
    pod.command(*TAKING["nft marks"][0])
    done = weir.json("verify", "--netns", pod.name)
    assert done.code == 1
    assert [each["packet"] for each in done.target["rivals"]] == [WHERE]


def test_what_sends_the_proxys_own_connections_back_to_it_is_foretold(pod: Host, proxy: Proxy, weir: Command) -> None:
    assert weir("apply", "--netns", pod.name).code == 0
    pod.command(*table("inet", "type route hook output priority -150;", "tcp dport 8080 meta mark set 0x8000"))
    (rival,) = weir.json("verify", "--netns", pod.name).target["rivals"]
    assert (rival["place"], rival["fate"]) == ("table inet theirs, first, rule 1", "is captured, and isn't to be")
    assert rival["packet"].endswith((", mark 0x539", ", mark 0x111"))  # of which neither is to be captured
