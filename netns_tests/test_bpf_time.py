"""`weir trace --time`: every packet counted once in each chain, and nothing left behind."""

import errno
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.errors import FeatureMissing, KernelError, PermissionMissing
from agent.kernel.bpf import call
from agent.kernel.bpf.brackets import Brackets, Wanted
from agent.kernel.bpf.instructions import assembled, end
from agent.kernel.bpf.programs import BUCKETS, bucket_of, least
from netns_tests.bpf import all_programs, is_open, programs_of, refuse_programs
from netns_tests.command import Command
from netns_tests.command import end as ended
from netns_tests.daemon import vanish
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.syscalls import drop_capabilities
from netns_tests.world import eventually
from rulesets import nft, pod
from rulesets.capture import Capture

OURS = ["nat-pre", "raw-out", "mangle-out", "nat-out"]
BRACKETS = len(OURS) + 2  # and an empty one for each hook
WITNESS = """
table inet witness {
    chain in { type filter hook prerouting priority 400; counter; }
    chain out { type filter hook output priority 400; counter; }
}
"""
PACKETS = 500


@pytest.fixture
def place(stack: ExitStack) -> Namespace:
    """A captured namespace with nothing but loopback: nobody sends there but the test."""
    made = stack.enter_context(Namespace.create("time"))
    made.nft(nft.render(pod.build(Capture())))
    return made


@contextmanager
def measuring(weir: Command, place: Namespace) -> Iterator[subprocess.Popen[str]]:
    """Start measuring until it is interrupted; in the block it counts packets."""
    with weir.started("trace", "--netns", place.name, "--time", "--for", "600", "--output", "json") as process:
        eventually(lambda: is_open(process) or process.poll() is not None, "it measures", slow(30))
        yield process


def measured(process: "subprocess.Popen[str]") -> Any:
    """End it as a user does, and return what it came to."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=slow(60))
    assert (process.returncode, err) == (130, "")
    return json.loads(out)["timing"]


def send(place: Namespace, count: int = PACKETS, *, port: int = 9, address: str = "127.0.0.1") -> None:
    """Send so many datagrams to a socket that takes each of them: nothing is answered, and nothing under way."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with place.socket(family, socket.SOCK_DGRAM) as sink, place.socket(family, socket.SOCK_DGRAM) as source:
        sink.settimeout(slow(30))
        sink.bind((address, port))
        for _ in range(count):
            source.sendto(b"x", (address, port))
            sink.recv(1)


def counted(place: Namespace) -> dict[str, int]:
    """What the witness has counted by its chain."""
    listed = json.loads(place.command("nft", "-j", "list", "table", "inet", "witness"))["nftables"]
    rules = [each["rule"] for each in listed if "rule" in each]
    return {each["chain"]: each["expr"][0]["counter"]["packets"] for each in rules}


def settled(place: Namespace) -> bool:
    """Tell whether the witness sees nothing for a moment: longer than an acknowledgement is put off."""
    before = counted(place)
    time.sleep(0.25)
    return counted(place) == before


def by_name(timing: Any) -> dict[str, Any]:
    return {each["chain"].removeprefix("inet weir-pod "): each for each in timing["chains"]}


def test_each_packet_is_counted_once_in_each_chain(place: Namespace, tmp_path: Path) -> None:
    with measuring(Command(tmp_path), place) as process:
        send(place)
        send(place, address="::1")
        timing = measured(process)
    assert [each["chain"] for each in timing["chains"]] == [f"inet weir-pod {each}" for each in OURS]
    assert [each["hook"] for each in timing["chains"]] == ["prerouting", "output", "output", "output"]
    assert [each["packets"] for each in timing["chains"]] == [2 * PACKETS] * 4
    for each in timing["chains"]:
        assert (each["stopped"], each["unmeasured"], each["beside"]) == (0, 0, [])
        assert 0 <= each["times"]["p50"] <= each["times"]["p99"]
    assert sum(each["share"] for each in timing["chains"]) == pytest.approx(1)
    assert not timing["changed"]


def test_connections_that_cross_on_both_processors_are_counted_exactly(place: Namespace, tmp_path: Path) -> None:
    """Answers are sent while the processor that sends them is in the middle of a packet of somebody else's."""
    place.nft(WITNESS)
    with place.socket(socket.AF_INET) as server:
        server.bind(("127.0.0.1", 8080))
        server.listen(64)

        def serve() -> None:
            for _ in range(80):
                peer, _ = server.accept()
                with peer:
                    while sent := peer.recv(65536):
                        peer.sendall(sent)

        def dial(_: int) -> None:
            with place.socket(socket.AF_INET) as client:
                client.connect(("127.0.0.1", 8080))
                client.sendall(b"x" * 50_000)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass

        with measuring(Command(tmp_path), place) as process, ThreadPoolExecutor(6) as threads:
            serving = threads.submit(serve)
            list(threads.map(dial, range(80)))
            serving.result(slow(30))
            eventually(lambda: settled(place), "nobody sends any more", slow(30))
            timing = by_name(measured(process))
    seen = counted(place)
    assert seen["out"] > 800
    assert [timing[each]["packets"] for each in OURS] == [seen["in"], *[seen["out"]] * 3]
    assert not any(each["stopped"] or each["unmeasured"] for each in timing.values())


def test_what_a_chain_drops_is_told_and_ends_up_in_no_time(place: Namespace, tmp_path: Path) -> None:
    place.nft("insert rule inet weir-pod mangle-out udp dport 7 drop")
    with measuring(Command(tmp_path), place) as process:
        with pytest.raises(PermissionError):
            send(place, 1, port=7)  # EPERM is what a sender is told of a drop
        send(place)
        timing = by_name(measured(process))
    assert [(timing[each]["packets"], timing[each]["stopped"]) for each in OURS] == [
        (PACKETS, 0),
        (PACKETS + 1, 0),
        (PACKETS, 1),
        (PACKETS, 0),
    ]


def test_a_chain_of_many_rules_takes_longer(place: Namespace, tmp_path: Path) -> None:
    place.nft("\n".join(f"insert rule inet weir-pod raw-out meta mark {each} accept" for each in range(9000, 10000)))
    with measuring(Command(tmp_path), place) as process:
        send(place)
        timing = by_name(measured(process))
    assert timing["raw-out"]["times"]["p50"] > 5 * timing["nat-pre"]["times"]["p50"]
    assert timing["raw-out"]["share"] > 0.5


def test_killed_it_leaves_no_program(place: Namespace, tmp_path: Path) -> None:
    before = place.command("nft", "-a", "list", "ruleset")
    with measuring(Command(tmp_path), place) as process:
        programs = programs_of(process)
        assert len(programs) == 2 * BRACKETS
        assert programs <= all_programs()
        ended(process, signal.SIGKILL)
        eventually(lambda: not programs & all_programs(), "the programs go with their process", slow(30))
    assert place.command("nft", "-a", "list", "ruleset") == before
    send(place)


def test_two_at_once_both_count_and_the_outer_one_says_what_it_includes(place: Namespace, tmp_path: Path) -> None:
    weir = Command(tmp_path)
    with measuring(weir, place) as inner, measuring(weir, place) as outer:
        send(place)
        seen = by_name(measured(outer)), by_name(measured(inner))
    for each in seen:
        assert [each[name]["packets"] for name in OURS] == [PACKETS] * 4
    assert seen[0]["raw-out"]["beside"] == [
        f"something else at priority {each} (a BPF program, or the kernel's own)" for each in (-301, -299)
    ]
    assert seen[1]["raw-out"]["beside"] == []


def test_rules_of_others_that_are_measured_too_are_named(place: Namespace, tmp_path: Path) -> None:
    place.nft("""
        table ip other {
            chain near { type filter hook output priority -301; }
            chain nat { type nat hook output priority -7; }
            chain far { type filter hook output priority -298; }
        }
    """)
    place.command("iptables-legacy", "-t", "mangle", "-A", "OUTPUT", "-p", "udp", "--dport", "1", "-j", "ACCEPT")
    with measuring(Command(tmp_path), place) as process:
        send(place)
        place.nft("add table ip later")
        timing = measured(process)
    found = by_name(timing)
    assert {each: found[each]["beside"] for each in OURS} == {
        "nat-pre": [],
        "raw-out": ["ip other near"],
        "mangle-out": ["iptables-legacy mangle"],
        "nat-out": ["ip other nat"],
    }
    assert [each["packets"] for each in found.values()] == [PACKETS] * 4
    assert timing["changed"]


def test_what_is_shown(place: Namespace, tmp_path: Path) -> None:
    done = Command(tmp_path)("trace", "--netns", place.name, "--time")
    assert (done.code, done.err) == (0, "")
    first, _, head, *chains, _, last = done.out.splitlines()
    assert first == f"{place.name}: measuring Weir's chains for 0.2 s"
    assert head.split() == ["chain", "hook", "packets", "mean", "p50", "p99", "share"]
    assert chains[1].split() == ["inet", "weir-pod", "raw-out", "output", "0", "-", "-", "-", "-"]
    assert re.fullmatch(r"0 ns in these chains within \d+\.\d\d s: 0\.00% of a processor", last)


@pytest.mark.parametrize("more", [("out",), ("--rate", "20"), ("--count", "1")])
def test_what_makes_no_sense_with_it_is_refused(more: tuple[str, ...], tmp_path: Path) -> None:
    done = Command(tmp_path)("trace", "--netns", "host", "--time", *more)
    assert (done.code, done.out) == (2, "")
    assert "--time: measures every packet, so it takes no " in done.err


def test_a_namespace_without_rules_is_said_to_have_none(stack: ExitStack, tmp_path: Path) -> None:
    bare = stack.enter_context(Namespace.create("bare"))
    done = Command(tmp_path)("trace", "--netns", bare.name, "--time")
    assert (done.code, done.out) == (2, "")
    assert f"target '{bare.name}': no chain of Weir's is in its namespace" in done.err


def test_a_namespace_that_goes_away_ends_it(place: Namespace, tmp_path: Path) -> None:
    with measuring(Command(tmp_path), place) as process:
        vanish(place)
        out, _ = process.communicate(timeout=slow(60))
    assert process.returncode == 2
    assert place.name in out


def test_the_kernels_buckets_are_those_of_python(place: Namespace) -> None:
    for value in (*range(5000), *(2**power + more for power in range(12, 32) for more in (-1, 0, 1))):
        assert least(bucket_of(value)) <= value < least(bucket_of(value) + 1)
    assert bucket_of(2**40) == bucket_of(2**32 - 1) == BUCKETS - 1

    def inside() -> None:
        with Brackets((Wanted(hook=3, priority=-300), Wanted(hook=3, priority=-290, empty=True))) as brackets:
            send(place)
            brackets.start()
            send(place)
            brackets.stop()
            send(place)
            for each in brackets.figures():
                assert (each.entered, each.packets, sum(each.times)) == (PACKETS, PACKETS, PACKETS)
                shortest = sum(count * least(number) for number, count in enumerate(each.times))
                longest = sum(count * (least(number + 1) - 1) for number, count in enumerate(each.times))
                assert shortest <= each.nanoseconds <= longest

    place.run(inside)


def test_a_program_that_is_refused_is_told_with_the_verifiers_reason() -> None:
    with pytest.raises(KernelError, match=r"the verifier says: R0 !read_ok"):
        call.program(assembled([end()]), "weir_bad")


def test_missing_rights_are_named(place: Namespace) -> None:
    def inside() -> None:
        drop_capabilities()
        with pytest.raises(PermissionMissing) as caught:
            Brackets((Wanted(hook=3, priority=-300),))
        assert "CAP_BPF" in caught.value.hint

    place.run(inside)


@pytest.mark.parametrize(
    ("code", "option"),
    [(errno.EINVAL, "CONFIG_NETFILTER_BPF_LINK, Linux 6.4"), (errno.ENOSYS, "CONFIG_BPF_SYSCALL, CONFIG_NETFILTER")],
)
def test_a_kernel_without_such_programs_is_named_with_its_option(place: Namespace, code: int, option: str) -> None:
    def inside() -> None:
        refuse_programs(code)
        with pytest.raises(FeatureMissing) as caught:
            Brackets((Wanted(hook=3, priority=-300),))
        assert caught.value.option.startswith(option)

    place.run(inside)
