"""`weir trace` on live connections: what it shows, and that nothing of it stays."""

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from textwrap import dedent

import pytest

from netns_tests.command import Command, end
from netns_tests.daemon import listening, vanish
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.world import eventually
from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.vocabulary import Family

SECONDS = "60"  # each trace here ends by its count, or is ended
HOSTILE = "\x1b[2Jx\u202e"
FOREIGN = """
table inet other {
    chain some {
        ip daddr 10.1.2.9 drop comment "nobody goes there"
    }
    chain out {
        type filter hook output priority 0;
        tcp dport 9999 mark set 0x77 jump some
    }
}
"""


@pytest.fixture
def place(stack: ExitStack) -> Namespace:
    """A captured namespace with somewhere to send to, and a proxy. Of IPv6 connections are refused."""
    made = stack.enter_context(Namespace.create("trace"))
    made.ip(
        "link add eth0 type veth peer name far",
        "link set eth0 up",
        "link set far up",
        "addr add 10.1.2.1/24 dev eth0",
        "addr add fd01::1/64 dev eth0",
    )
    made.nft(nft.render(pod.build(Capture(families=(Family.IPV4,), dns=False))) + FOREIGN)
    for each in listening(made, 15001, 8080):
        stack.enter_context(each)
    return made


@contextmanager
def tracing(weir: Command, place: Namespace, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a trace; in the block its table is there."""
    before = tables(place)
    with weir.started("trace", "--netns", place.name, *arguments) as process:
        eventually(lambda: len(tables(place) - before) == 1 or process.poll() is not None, "it traces", slow(30))
        yield process


def tables(place: Namespace) -> set[str]:
    return set(place.command("nft", "list", "tables").splitlines())


def ruleset(place: Namespace) -> str:
    return place.command("nft", "-a", "-s", "list", "ruleset")


def dial(place: Namespace, address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with place.socket(family) as client, suppress(OSError):
        client.settimeout(0.2)
        client.connect((address, port))


def plainly(text: str) -> str:
    """Replace the ports that clients got."""
    return re.sub(r"(?<=[\d\]]):[1-6]\d{4}(?= ->)", ":PORT", text)


def test_connections_are_shown_with_all_that_they_meet(place: Namespace, tmp_path: Path) -> None:
    with tracing(Command(tmp_path), place, "out", "tcp", "--for", SECONDS, "--count", "4") as process:
        dial(place, "10.1.2.3", 80)
        dial(place, "127.0.0.1", 8080)
        dial(place, "fd01::7", 443)
        dial(place, "10.1.2.9", 9999)
        out, err = process.communicate(timeout=slow(60))
    assert (process.returncode, err) == (0, "")
    shown, summary = plainly(out).rstrip("\n").rsplit("\n", 1)
    assert shown.replace(place.name, "NAME") == dedent("""\
        NAME: tracing for 60 s, 20 packets a second at most

        tcp 10.1.2.1:PORT -> 10.1.2.3:80, out by eth0
            inet weir-pod mangle-out: policy accept
            inet weir-pod nat-out: outbound-redirect: accept
            inet other out: policy accept
            translated: destination is 127.0.0.1:15001, was 10.1.2.3:80
          accepted: outbound-redirect

        tcp 127.0.0.1:PORT -> 127.0.0.1:8080, out by lo
            inet weir-pod mangle-out: policy accept
            inet weir-pod nat-out: outbound-loopback: accept
            inet other out: policy accept
          accepted: outbound-loopback

        tcp [fd01::1]:PORT -> [fd01::7]:443, out by eth0
            inet weir-pod mangle-out: policy accept
            inet weir-pod nat-out: outbound-refused: drop
          dropped: outbound-refused

        tcp 10.1.2.1:PORT -> 10.1.2.9:9999, out by eth0
            inet weir-pod mangle-out: policy accept
            inet weir-pod nat-out: outbound-redirect: accept
            inet other out: policy accept
            translated: destination is 127.0.0.1:15001, was 10.1.2.9:9999
          accepted: outbound-redirect
    """)
    paths = "1 outbound-loopback, 2 outbound-redirect, 1 outbound-refused"
    assert re.fullmatch(rf"4 connections, 4 packets in \d+\.\d s: {paths}", summary)


def test_rules_of_others_are_shown_by_their_text_and_what_they_do(place: Namespace, tmp_path: Path) -> None:
    place.nft("delete table inet weir-pod")
    with tracing(
        Command(tmp_path), place, "--output", "json", "--for", SECONDS, "--count", "1", "10.1.2.9:9999"
    ) as process:
        dial(place, "10.1.2.8", 9999)
        dial(place, "10.1.2.9", 9998)
        dial(place, "10.1.2.9", 9999)
        out, _ = process.communicate(timeout=slow(60))
    first, last = map(json.loads, out.splitlines())
    leg = first["connection"]["legs"][0]
    assert [(each["chain"], each["rule"], each["verdict"], each["mark"]) for each in leg["met"]] == [
        ("out", "tcp dport 9999 meta mark set 0x00000077 jump some", "jump some", 0x77),
        ("some", 'ip daddr 10.1.2.9 drop comment "nobody goes there"', "drop", None),
    ]
    assert (first["connection"]["path"], first["connection"]["fate"]) == ("dropped-by-others", "dropped")
    assert (leg["packet"]["destination"], leg["packet"]["destination_port"]) == ("10.1.2.9", 9999)
    assert last["summary"]["paths"] == {"dropped-by-others": 1}
    assert last["summary"]["lost"] == 0


def test_what_comes_back_by_loopback_is_one_connection(place: Namespace, tmp_path: Path) -> None:
    with tracing(Command(tmp_path), place, "--output", "json", "--for", SECONDS, "--count", "1", "tcp") as process:
        dial(place, "127.0.0.1", 8080)
        out, _ = process.communicate(timeout=slow(60))
    (first, _) = map(json.loads, out.splitlines())
    assert [each["way"] for each in first["connection"]["legs"]] == ["out", "in"]


def test_killed_it_leaves_every_byte_as_it_was(place: Namespace, tmp_path: Path) -> None:
    before = ruleset(place)
    with tracing(Command(tmp_path), place, "--for", SECONDS) as process:
        assert ruleset(place) != before
        end(process, signal.SIGKILL)
        eventually(lambda: ruleset(place) == before, "the table goes with its process", slow(30))


def test_interrupted_it_says_what_it_has_seen(place: Namespace, tmp_path: Path) -> None:
    before = ruleset(place)
    with tracing(Command(tmp_path), place, "out", "tcp", "--for", SECONDS) as process:
        dial(place, "10.1.2.3", 80)
        assert process.stdout is not None
        while "outbound-redirect:" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=slow(60))
    assert process.returncode == 130
    assert re.search(r"\n1 connection, 1 packet in .*: 1 outbound-redirect\n$", out)
    eventually(lambda: ruleset(place) == before, "nothing of it stays", slow(30))


def test_two_at_once_see_what_each_asked_for(place: Namespace, tmp_path: Path) -> None:
    weir, common = Command(tmp_path), ("--for", SECONDS, "--count", "1", "--output", "json")
    with tracing(weir, place, "out", ":80", *common) as one, tracing(weir, place, "out", ":81", *common) as other:
        dial(place, "10.1.2.3", 81)
        dial(place, "10.1.2.3", 80)
        seen = [json.loads(each.communicate(timeout=slow(60))[0].splitlines()[0]) for each in (one, other)]
    ports = [each["connection"]["legs"][0]["packet"]["destination_port"] for each in seen]
    assert ports == [80, 81]
    met = {each["table"] for shown in seen for leg in shown["connection"]["legs"] for each in leg["met"]}
    assert met == {"inet weir-pod", "inet other"}


def test_names_of_interfaces_move_no_cursor(place: Namespace, tmp_path: Path) -> None:
    place.command("ip", "link", "add", HOSTILE, "type", "veth", "peer", "name", "near")
    place.ip("link set near up")
    place.command("ip", "link", "set", HOSTILE, "up")
    place.command("ip", "addr", "add", "10.7.0.1/24", "dev", HOSTILE)
    with tracing(Command(tmp_path), place, "out", "10.7.0.0/24", "udp", "--for", SECONDS, "--count", "1") as process:
        with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", ("10.7.0.9", 7))
        out, _ = process.communicate(timeout=slow(60))
    assert "out by \\x1b[2Jx\\u202e\n" in out
    assert "\x1b" not in out


def test_a_namespace_that_goes_away_ends_it(place: Namespace, tmp_path: Path) -> None:
    with tracing(Command(tmp_path), place, "--for", SECONDS) as process:
        vanish(place)
        _, err = process.communicate(timeout=slow(60))
    assert process.returncode == 2
    assert place.name in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("out", "in"), "filter 'in': says a second time which way is meant"),
        (("tcp; flush ruleset",), "filter 'tcp;'"),
        (("10.0.0.0/8:0",), "wants ports of 1 to 65535"),
        (("10.0.0.1/8",), "has host bits set"),
        (("ipv6", "10.0.0.0/8"), "no packet is of two families"),
    ],
)
def test_a_filter_that_cannot_be_read_is_named(words: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    done = Command(tmp_path)("trace", "--netns", "host", *words)
    assert done.code == 2
    assert complaint in done.err
