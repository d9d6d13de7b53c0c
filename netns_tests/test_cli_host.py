"""A plain host as target, on a machine of the test's own: redsocks as the proxy, the way there and back."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from netns_tests.command import Session
from netns_tests.connect_proxy import ConnectProxy
from netns_tests.enrolling import slow
from netns_tests.machine import Machine
from netns_tests.namespace import Namespace
from netns_tests.traffic import EchoServer, Stream, exchange
from netns_tests.world import Host, eventually
from tests.packages import lacks

HERE, THERE = "10.9.0.2", "10.9.0.1"
HERE_V6, THERE_V6 = "fd09::2", "fd09::1"
SSH, WEB = 22, 80
# Rules and routes of the machine's owner, which are nobody else's business. `marks` is for the proxy that is told by
# its mark: redsocks can't set one.
THEIRS = """
table ip filter {
    chain INPUT { type filter hook input priority 0; policy accept; tcp dport 23 drop; }
    chain OUTPUT { type filter hook output priority 0; policy accept; udp dport 69 drop; }
}
table inet marks {
    chain out { type filter hook output priority -310; meta skuid "redsocks" meta mark set 0x1539; }
}
"""
CONFIGURATION = f"""
base {{ log_info = off; log = stderr; daemon = off; user = redsocks; group = redsocks; redirector = iptables; }}
redsocks {{ local_ip = 127.0.0.1; local_port = 15001; ip = {THERE}; port = 3128; type = http-connect; }}
"""
TOLD_BY = {"user": ('proxy_user="redsocks"',), "mark": ('proxy_mark="0x539/0xfff"',)}


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


@pytest.fixture
def internet(machine: Machine) -> Iterator[Host]:
    with Host.create("internet") as made:
        machine.connect(made, "eth0", here=(f"{HERE}/24", f"{HERE_V6}/64"), there=(f"{THERE}/24", f"{THERE_V6}/64"))
        machine.run("nft", "-f", "-", stdin=THEIRS)
        machine.run("ip", "route", "add", "10.66.0.0/16", "via", THERE)
        machine.run("ip", "rule", "add", "from", "10.77.0.0/16", "lookup", "200", "pref", "500")
        machine.run("ip", "route", "add", "default", "via", THERE, "table", "200")
        yield made


@contextmanager
def redsocks(machine: Machine) -> Iterator[None]:
    """The proxy itself, as its own user."""
    program = shutil.which("redsocks", path="/usr/sbin:/usr/bin")
    if program is None and lacks("redsocks"):
        pytest.skip("this distribution has no redsocks")
    assert program, "redsocks is missing, and this test proves nothing without it: `./dev test` installs it"
    configuration = Path(machine.directory, "redsocks.conf")
    configuration.write_text(CONFIGURATION)
    with machine.background(program, "-c", str(configuration)):
        eventually(lambda: "127.0.0.1:15001" in machine.run("ss", "-Hltn"), "redsocks listens", slow(10))
        yield


def as_namespace(machine: Machine) -> Namespace:
    """The machine's network, for the harness's clients and servers."""
    place = Namespace("the machine", 0)
    place.path = machine.path
    return place


@pytest.mark.parametrize("told_by", TOLD_BY)
def test_a_hosts_own_connections_go_through_its_proxy(machine: Machine, internet: Host, told_by: str) -> None:
    weir, host = machine.weir, as_namespace(machine)
    chosen = ["--netns", "host", "--set", 'families=["ipv4"]']
    for each in TOLD_BY[told_by]:
        chosen += ["--set", each]
    before = machine.state()
    with ExitStack() as stack:
        for server in (EchoServer(internet, WEB), EchoServer(host, SSH)):
            stack.enter_context(server)
        upstream = stack.enter_context(ConnectProxy(internet))
        assert exchange(host, (THERE, WEB)).direct
        old = stack.enter_context(Stream(host, internet, (THERE, 0)))
        ssh = stack.enter_context(Stream(internet, host, (HERE, 0)))

        # Without the proxy nothing is redirected into nowhere.
        assert weir("apply", *chosen).code == 1
        assert machine.state() == before
        stack.enter_context(redsocks(machine))
        assert weir("apply", *chosen).code == 0
        assert weir("diff", *chosen).code == 0
        assert weir("verify", *chosen).code == 0
        assert "table inet weir-host" in machine.run("nft", "list", "tables")
        assert "weir-pod" not in machine.run("nft", "list", "tables")

        # Through the proxy, which reaches its own upstream: it doesn't loop.
        for number in range(3):
            seen = exchange(host, (THERE, WEB), data=b"through the proxy")
            assert seen.echoed == b"through the proxy"
            assert not seen.direct
            assert seen.seen[0] == THERE
            assert upstream.asked == [(THERE, WEB)] * (number + 1)
        # Inwards, and what was open, is left alone.
        assert exchange(internet, (HERE, SSH)).direct
        assert [old.outcome(), ssh.outcome()] == ["alive"] * 2
        assert len(upstream.asked) == 3

        # redsocks can't speak IPv6 as a transparent proxy: such connections are refused rather than going around it.
        with pytest.raises(ConnectionRefusedError):
            exchange(host, (THERE_V6, WEB))

        assert weir("remove", "--netns", "host").code == 0
        assert exchange(host, (THERE, WEB)).direct
        assert exchange(host, (THERE_V6, WEB)).direct
        assert len(upstream.asked) == 3
        assert [old.outcome(), ssh.outcome()] == ["alive"] * 2
    assert machine.state() == before


def test_a_host_is_not_locked_out(machine: Machine, internet: Host) -> None:
    before = machine.state()
    chosen = ("--netns", "host", "--set", 'proxy_user="redsocks"', "--set", "when_proxy_absent=capture")
    host = as_namespace(machine)
    with EchoServer(internet, WEB), EchoServer(host, SSH):
        with Session(machine.weir, "apply", *chosen, "--confirm", "4") as session:
            session.until("unless confirmed: press Enter, or run `weir confirm --netns host`")
            with pytest.raises(ConnectionRefusedError):  # no proxy is there: a mistake that locks out
                exchange(host, (THERE, WEB))
            assert exchange(internet, (HERE, SSH)).direct
            assert session.end(slow(20)) == 1
            assert "undone: it was not confirmed in time" in session.output
        assert exchange(host, (THERE, WEB)).direct
    assert machine.state() == before
    with machine.weir.started("apply", *chosen, "--confirm", "60"):
        eventually(lambda: machine.weir("confirm", "--netns", "host").code == 0, "it is confirmed", slow(20))
    assert "weir-host" in machine.run("nft", "list", "tables")
    assert machine.weir("remove", "--all").out == "removed    host: rules and routes are gone\n"
    assert machine.state() == before


def test_remove_all_sweeps_every_namespace(machine: Machine) -> None:
    weir, at_once = machine.weir, ("--set", "when_proxy_absent=capture")
    before = machine.state()
    for name in ("named", "rule-only", "clean"):
        machine.run("ip", "netns", "add", name)
        machine.run("ip", "-n", name, "link", "set", "lo", "up")
    machine.run("ip", "-n", "rule-only", "rule", "add", "fwmark", "0x111/0xfff", "lookup", "100", "proto", "119")
    machine.run("ip", "-n", "clean", "rule", "add", "fwmark", "0x222", "lookup", "100")
    with machine.background("unshare", "--net", "sh", "-ec", "ip link set lo up; exec sleep 600"):

        def sleeping() -> list[str]:
            return machine.run("pgrep", "-x", "sleep").split()

        eventually(lambda: len(sleeping()) == 2, "the other process sleeps, beside process 1", slow(10))
        (unnamed,) = (f"pid:{each}" for each in sleeping() if each != "1")
        assert weir("apply", "--netns", "named", "--netns", unnamed, "--netns", "host", *at_once).code == 0
        assert weir("remove", "--all", "--drain", "1").code == 0
        done = weir("remove", "--all")
        assert (done.code, done.out) == (0, "nothing of Weir is in any namespace\n")
        held = machine.run("nsenter", f"--net=/proc/{unnamed.removeprefix('pid:')}/ns/net", "nft", "list", "ruleset")
        assert held == ""
        assert "0x111" not in machine.run("ip", "-n", "rule-only", "rule")
        assert "0x222" in machine.run("ip", "-n", "clean", "rule")
        assert weir("apply", "--netns", unnamed, "--netns", "named", *at_once).code == 0
        swept = {each["netns"]: each["state"] for each in weir.json("remove", "--all").json["targets"]}
        assert swept == {"named": "removed", unnamed: "removed"}
    assert machine.state() == before
