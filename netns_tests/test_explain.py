"""`weir explain`: each fault is named in the first line, what mends it in the last, and all of it is read in review."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.explain import facts
from agent.explain.explanation import Explanation
from agent.explain.facts import Facts, Word
from agent.explain.topics import explain
from agent.targets import Captured, Target
from netns_tests.command import Command
from netns_tests.daemon import PROXY as PORTS
from netns_tests.daemon import Daemon, appear, listening, targets, vanish
from netns_tests.enrolling import Weir, capture
from netns_tests.proxy import Proxy
from netns_tests.world import Host

GOLDENS = Path(__file__).parent / "golden/explain"
MARK = "-m tcp --dport 8080 -j MARK --set-xmark 0x539/0xffffffff"
COUNTED = re.compile(r'counter name "[^"]*" |^\tcounter \S+ \{[^}]*\}\n', re.MULTILINE)


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of iptables' programs that is the test's own."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    return tmp_path / "xtables.lock"


@pytest.fixture
def proxy(pod: Host) -> Iterator[Proxy]:
    with Proxy(pod) as running:
        yield running


def seen(weir: Weir, **settings: object) -> Facts:
    """Look at the pod as at a target called web."""
    target = Target(name="web", netns=weir.pod.name, wish=Captured(capture=capture(**settings)))
    word = Word(name="web", wanted="the test wants it captured", again="web")
    return weir.call(lambda: facts.read(target, weir.handle, word, records=weir.records))


def explained(weir: Weir, **settings: object) -> Explanation:
    return explain(seen(weir, **settings))


def theirs(chain: str, rule: str) -> str:
    return f"add table inet theirs; add chain inet theirs first {{ {chain} }}; add rule inet theirs first {rule}"


def without_counters(pod: Host) -> None:
    listed = pod.command("nft", "list", "table", "inet", "weir-pod")
    pod.command("nft", "delete", "table", "inet", "weir-pod")
    pod.nft(COUNTED.sub("", listed))


# What is done to a pod that is captured, and how the first line begins then.
FAULTS: dict[str, tuple[Callable[[Host], object], str]] = {
    "flush": (
        lambda pod: pod.command("nft", "flush", "table", "inet", "weir-pod"),
        "web is not captured: table inet weir-pod holds no rules: all 21 are missing.",
    ),
    "table deleted": (
        lambda pod: pod.command("nft", "delete", "table", "inet", "weir-pod"),
        "web is not captured: there is no table inet weir-pod.",
    ),
    "earlier redirect": (
        lambda pod: pod.nft(theirs("type nat hook output priority -110;", "tcp dport 8080 redirect to :9")),
        (
            "web is not wholly captured: 10.0.0.5:40000 to 10.9.0.1:8080 tcp, new, outgoing is redirected to 9,"
            " by table inet theirs, first, rule 1: tcp dport 8080 redirect to :9."
        ),
    ),
    "earlier mark of iptables-legacy": (
        lambda pod: pod.command("iptables-legacy", "-t", "mangle", "-A", "OUTPUT", "-p", "tcp", *MARK.split()),
        (
            "web is not wholly captured: 10.0.0.5:40000 to 10.9.0.1:8080 tcp, new, outgoing goes past the proxy,"
            " by iptables-legacy, mangle/OUTPUT, rule 1: -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x539/0xfff"
        ),
    ),
    "ip rule": (
        lambda pod: pod.command("ip", "rule", "del", "pref", "32764"),
        "web is not wholly captured: the policy rule `ip rule: from all fwmark 0x111/0xfff priority 32764 lookup 100`",
    ),
    "route": (
        lambda pod: pod.command("ip", "-6", "route", "flush", "table", "100"),
        (
            "web is not wholly captured: the route `ip -6 route: local ::/0 dev lo table 100` is missing,"
            " so answers of captured inbound connections are lost."
        ),
    ),
    "disable_ipv6 on lo": (
        lambda pod: pod.sysctl("net/ipv6/conf/lo/disable_ipv6", 1),
        "web is not wholly captured: IPv6 is off on lo only (disable_ipv6), so its connections can't be captured",
    ),
    "disable_ipv6": (
        lambda pod: pod.sysctl("net/ipv6/conf/all/disable_ipv6", 1),
        "web is not wholly captured: IPv6 is off in the namespace (disable_ipv6), and `ip -6 rule: ",
    ),
    "no counters": (without_counters, "web is not wholly captured: in table inet weir-pod no rule counts."),
    "mark collision": (
        lambda pod: pod.command(
            *"iptables-legacy -t mangle -A OUTPUT -p icmp -j MARK --set-xmark 0x1/0x1".split(),
        ),
        "web is captured, but iptables-legacy: `-p icmp -j MARK --set-xmark 0x1/0x1` sets bits 0x1 of the packet mark",
    ),
    "answers stolen": (
        lambda pod: pod.command("ip", "rule", "add", "pref", "100", "fwmark", "0x111/0x111", "unreachable"),
        "web is not wholly captured: ip rule 100: from all fwmark 0x111/0x111 unreachable: it comes before Weir's rule",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_in_the_first_line(pod: Host, proxy: Proxy, weir: Weir, name: str) -> None:
    fault, first = FAULTS[name]
    weir.capture()
    good = explained(weir)
    assert (good.answer, good.captured, good.mend) == ("web is captured.", True, "nothing to do")
    fault(pod)
    found = explained(weir)
    assert found.answer.startswith(first), found.answer
    assert found.captured is (name == "mark collision")
    assert found.mend


@pytest.mark.parametrize("name", ["earlier redirect", "earlier mark of iptables-legacy", "disable_ipv6 on lo"])
def test_the_command_of_the_last_line_mends_it(pod: Host, proxy: Proxy, weir: Weir, name: str) -> None:
    weir.capture()
    FAULTS[name][0](pod)
    found = explained(weir)
    assert f"`{found.command}`" in found.mend
    subprocess.run(["sh", "-euc", found.command], check=True, capture_output=True)
    weir.capture()
    assert explained(weir).answer == "web is captured."


def test_a_proxy_that_is_gone_and_one_of_one_family(pod: Host, weir: Weir) -> None:
    with Proxy(pod):
        weir.capture()
    gone = explained(weir, dns=False)
    assert gone.answer.startswith(
        "web is not captured: nothing listens on tcp port 15001 (outbound_port), tcp port 15006"
    )
    assert gone.mend.startswith("start the proxy there (web)")
    weir.capture(dns=False)
    listeners = []
    for port in (15001, 15006):
        listener = pod.socket(2)
        listener.bind(("0.0.0.0", port))
        listener.listen()
        listeners.append(listener)
    half = explained(weir, dns=False)
    for each in listeners:
        each.close()
    first = "web is not wholly captured: nothing listens on tcp port 15001 (outbound_port) over IPv6, tcp port 15006"
    assert half.answer.startswith(first)
    assert "families" in half.mend


def test_a_namespace_that_was_made_anew(pod: Host, proxy: Proxy, tmp_path: Path) -> None:
    with Weir(pod, tmp_path) as before:
        before.capture()
    vanish(pod)
    appear(pod)
    with Weir(pod, tmp_path) as anew:
        found = explained(anew)
    assert found.answer.startswith(
        "web is not captured: its namespace was made anew, and there is no table inet weir-pod (and"
    )
    assert found.mend.startswith("start the proxy there first, since nothing listens on ")
    assert found.mend.endswith("; then `weir apply web` makes it so")


def test_connection_tracking_that_is_full(pod: Host, proxy: Proxy, weir: Weir) -> None:
    weir.capture()
    # What the table holds at most is one number for the whole machine, on most kernels.
    known = seen(weir)
    assert known.tracked.stats is not None
    stats = replace(known.tracked.stats, entries=98, maximum=100)
    full = replace(known, tracked=replace(known.tracked, stats=stats))
    found = explain(full)
    assert found.answer == (
        "web is not wholly captured: connection tracking is full (98 of 100 entries): new connections are dropped."
    )
    assert found.command == "sysctl -w net.netfilter.nf_conntrack_max=200"


def test_whoever_made_the_rule_that_wins_is_named(pod: Host, proxy: Proxy, weir: Weir) -> None:
    from agent.drift import Culprit, Drift, Kind

    weir.capture()
    FAULTS["earlier redirect"][0](pod)
    made = Drift(kind=Kind.FOREIGN_CHAIN, said="table inet theirs", culprit=Culprit(pid=7, name="nft"), at=1.0)
    known = seen(weir)
    found = explain(replace(known, word=replace(known.word, drifts=(made,), daemon=True)))
    assert found.answer.endswith("; made by process 7 (nft).")
    (change,) = [each for each in found.topics if each.name == "last change"]
    assert change.said == "foreign-chain: table inet theirs, by process 7 (nft)"


def test_with_a_daemon_the_newest_change_and_who_made_it_are_told(pod: Host, tmp_path: Path, lock: Path) -> None:
    sockets = listening(pod, *PORTS)
    try:
        with Daemon(tmp_path, targets([pod]), environment={"XTABLES_LOCKFILE": str(lock)}) as daemon:
            daemon.start()
            daemon.eventually(lambda: daemon.target("t0")["captured"], "t0 is captured")

            def seen_anew() -> bool:
                # What was there before it looked for the first time has drifted from nothing.
                pod.nft("add table inet theirs; delete table inet theirs")
                pod.nft(theirs("type nat hook output priority -110;", "tcp dport 8080 redirect to :9"))
                time.sleep(0.5)  # polling with a deadline
                return bool(daemon.target("t0").get("drifts")) and not daemon.target("t0")["captured"]

            daemon.eventually(seen_anew, "the daemon has seen it")
            done = daemon.weir("explain", "t0")
    finally:
        for each in sockets:
            each.close()
    assert (done.code, done.err) == (1, "")
    first, *rest = done.out.splitlines()
    assert first.startswith(
        "t0 is not wholly captured: 10.0.0.5:40000 to 10.9.0.1:8080 tcp, new, outgoing is redirected"
    )
    change = next(each for each in rest if " last change " in each)
    assert "foreign-chain: " in change
    assert re.search(r", by process \d+ \(nft\)", change), done.out


def stable(text: str, pod: Host) -> str:
    """Return output without what differs from run to run: names, numbers of processes, inodes, sizes."""
    text = text.replace(pod.name, "NETNS")
    text = re.sub(r"inode \d+, cookie \d+", "inode INODE, cookie COOKIE", text)
    text = re.sub(r'"(device|inode|cookie|pid)": \d+', lambda found: f'"{found[1]}": 0', text)
    text = re.sub(r"\S+ \(pid \d+\)", "proxy (pid PID)", text)
    text = re.sub(r'("pid": 0,\s+"name": )"[^"]*"', r'\1"proxy"', text)
    text = re.sub(r"\d+ of \d+ entries", "SOME of MANY entries", text)
    text = re.sub(r"\n +counted since the namespace was made: .*", "", text)
    text = re.sub(
        r'"(entries|maximum|drops|early_drops|insert_failed|invalid)": \d+', lambda found: f'"{found[1]}": 0', text
    )
    return re.sub(r"handle \d+|(\"handle\"): \d+", lambda found: f"{found[1]}: 0" if found[1] else "handle N", text)


def test_what_is_printed_is_what_was_read_in_review(
    pod: Host, proxy: Proxy, tmp_path: Path, lock: Path, request: pytest.FixtureRequest
) -> None:
    file = tmp_path / "weir.toml"
    file.write_text(f'[[target]]\nname = "web"\nnetns = "{pod.name}"\n')
    weir = Command(tmp_path / "run", environment={"XTABLES_LOCKFILE": str(lock)})
    of_web = ("web", "--file", str(file))
    assert weir("apply", *of_web).code == 0
    printed = {
        "captured.txt": weir("explain", *of_web),
        "captured.json": weir("explain", *of_web, "--output", "json"),
        "packet.txt": weir("explain", *of_web, "--packet", "out tcp 10.99.0.2:80"),
        "packet.json": weir("explain", *of_web, "--packet", "in tcp [fd00:1::2]:8080", "--output", "json"),
    }
    assert {each.code for each in printed.values()} == {0}
    pod.nft(theirs("type nat hook output priority -110;", "tcp dport 8080 redirect to :9"))
    printed["rival.txt"] = weir("explain", *of_web)
    printed["rival-packet.txt"] = weir("explain", *of_web, "--packet", "out tcp 10.99.0.2:8080")
    assert (printed["rival.txt"].code, printed["rival-packet.txt"].code) == (1, 1)
    lost = weir("explain", "--netns", "nowhere-at-all")
    assert (lost.code, lost.out.splitlines()[0]) == (
        2,
        "nowhere-at-all is not captured: netns = 'nowhere-at-all': /run/netns/nowhere-at-all does not exist.",
    )
    wrong = []
    for name, done in printed.items():
        assert done.err == ""
        if name.endswith(".json"):
            json.loads(done.out)
        text = stable(done.out, pod).replace(str(file), "FILE")
        if request.config.getoption("--update-goldens", default=False):
            (GOLDENS / name).write_text(text)
        elif (GOLDENS / name).read_text() != text:
            wrong.append(f"{name}:\n{text}")
    assert not wrong, "--update-goldens accepts the new ones:\n" + "\n".join(wrong)


def test_a_packet_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    done = Command(tmp_path)("explain", "--netns", "nowhere-at-all", "--packet", "out tcp fd00::1")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "weir: --packet 'out tcp fd00::1': 'fd00::1': is no destination\n"
        "  an address of IPv6 stands in brackets: [fd00::1]\n"
    )
