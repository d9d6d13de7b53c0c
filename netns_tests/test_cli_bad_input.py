"""What can't be used is refused: exit code 2, one message that names target, setting and value, nothing changed."""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from netns_tests.command import Command, Done
from netns_tests.machine import Machine
from netns_tests.world import eventually

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
WEB = '[[target]]\nname = "web"\nnetns = "web"\nwhen_proxy_absent = "capture"\n'
# Another process that owns Weir's table: nobody else may change it while that one lives.
OWNER = """
import nftables, time
context = nftables.Nftables()
code, _, said = context.cmd("add table inet weir-pod { flags owner; }")
assert not code, said
print("held", flush=True)
time.sleep(600)
"""


def nothing(machine: Machine) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A command line (`FILE` and `DIR` are put in), the file's text, and what the message must name.

    `during` is the world in which it runs.
    """

    name: str
    run: str
    says: tuple[str, ...]
    file: str | bytes = WEB
    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    during: Callable[[Machine], AbstractContextManager[object]] = nothing


def setting(name: str, line: str, *says: str) -> Case:
    """A target with one bad line, which is line 5 of the file."""
    return Case(name=name, run="apply --file FILE", file=f"{WEB}{line}\n", says=("FILE:5:", "target 'web'", *says))


@contextlib.contextmanager
def owned(machine: Machine) -> Iterator[None]:
    machine.run("ip", "netns", "exec", "web", "nft", "delete", "table", "inet", "weir-pod")
    with machine.background("ip", "netns", "exec", "web", sys.executable, "-c", OWNER) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        yield
    eventually(
        lambda: "weir-pod" not in machine.run("ip", "netns", "exec", "web", "nft", "list", "tables"), "it is gone"
    )
    assert machine.weir("apply", "--netns", "web", "--set", "when_proxy_absent=capture").code == 0


@contextlib.contextmanager
def foreign_routes(machine: Machine) -> Iterator[None]:
    machine.run("ip", "-n", "web", "route", "add", "blackhole", "10.1.0.0/16", "table", "77")
    yield
    machine.run("ip", "-n", "web", "route", "flush", "table", "77")


@contextlib.contextmanager
def daemon(machine: Machine) -> Iterator[None]:
    file = machine.directory / "daemon.toml"
    file.write_text(WEB)
    with machine.weir.started("daemon", "--file", str(file), "--listen", "none"):
        ask = ("status", "--file", str(file), "--output", "json")
        eventually(lambda: (machine.weir(*ask).json.get("daemon") or {}).get("targets"), "the daemon keeps web", 20)
        yield


CASES = [
    # The file.
    Case(name="no file", run="diff --file DIR/nothing.toml", says=("DIR/nothing.toml", "no such file", "--netns")),
    Case(name="a directory", run="verify --file DIR", says=("DIR", "Is a directory")),
    Case(name="below a file", run="diff --file FILE/below", says=("FILE/below", "Not a directory")),
    Case(
        name="unreadable",
        run="render --file DIR/secret.toml",
        prefix=NOBODY,
        says=("render", "--file", "secret.toml", "not readable"),
    ),
    Case(name="not UTF-8", run="diff --file FILE", file=b'name = "\xff"', says=("FILE", "UTF-8", "byte 8")),
    Case(name="broken TOML", run="apply --file FILE", file="[[target]\n", says=("FILE:1:", "]]")),
    Case(name="a key twice", run="apply --file FILE", file=f'{WEB}netns = "db"\n', says=("FILE:5:", "overwrite")),
    Case(name="no target", run="apply --file FILE", file="[defaults]\n", says=("FILE", "has no target", "[[target]]")),
    Case(name="a stray table", run="apply --file FILE", file="[target.web]\n", says=("FILE:1:", "[[target]]")),
    Case(name="a stray key", run="apply --file FILE", file=f"dns = false\n{WEB}", says=("FILE:1:", "dns = false")),
    Case(name="no name", run="diff --file FILE", file='[[target]]\nnetns = "w"\n', says=("FILE:1:", "name is missing")),
    Case(
        name="no netns", run="diff --file FILE", file='[[target]]\nname = "w"\n', says=("FILE:1:", "netns is missing")
    ),
    Case(name="a number as netns", run="diff --file FILE", file=WEB.replace('"web"\nw', "3\nw"), says=("FILE:3:", "3")),
    Case(name="a name twice", run="diff --file FILE", file=f"{WEB}{WEB}", says=("FILE:6:", "'web'", "used twice")),
    Case(
        name="a netns twice",
        run="diff --file FILE",
        file=WEB + WEB.replace('name = "web"', 'name = "db"'),
        says=("FILE:7:", "'db'", "netns = 'web'", "used twice"),
    ),
    Case(
        name="a name with a line end",
        run="diff --file FILE",
        file=WEB.replace('name = "web"', 'name = "web\\nflush ruleset"'),
        says=("FILE:2:", r"name = 'web\nflush ruleset'"),
    ),
    Case(
        name="a bad default",
        run="diff --file FILE",
        file=f"[defaults]\noutbound_port = 70000\n{WEB}",
        says=("FILE:2:", "defaults", "outbound_port = 70000", "65535"),
    ),
    # Settings.
    setting("unknown", "outbund_port = 15001", "outbund_port = 15001", "did you mean 'outbound_port'?"),
    setting("text for a number", 'outbound_port = "15001"', "outbound_port = '15001'", "whole number"),
    setting("text for a truth", 'dns = "yes"', "dns = 'yes'", "true or false"),
    setting("a word of others", 'established = "drop"', "established = 'drop'", "keep, reset"),
    setting("out of range", "route_table = -1", "route_table = -1", "4294967295"),
    setting("host bits", 'exclude_outbound_networks = ["10.0.0.1/8"]', "'10.0.0.1/8'", "write 10.0.0.0/8"),
    setting("IPv4 in IPv6", 'probe_sources = ["::ffff:10.0.0.1"]', "'::ffff:10.0.0.1'", "write 10.0.0.1"),
    setting("outside its mask", 'proxy_mark = "0x1000/0xfff"', "proxy_mark = '0x1000/0xfff'"),
    setting("one port, two jobs", "inbound_port = 15001", "15001", "one port can't do two jobs"),
    setting("a long interface", 'exclude_interfaces = ["abcdefghijklmnop"]', "'abcdefghijklmnop'", "16 characters"),
    setting("nft in an interface", "exclude_interfaces = ['e\" accept #']", """'e" accept #'""", "character"),
    setting("a line end in an interface", 'exclude_interfaces = ["e\\nh"]', r"'e\nh'", "character"),
    setting("digits of others", 'exclude_outbound_ports = ["\uff18\uff10"]', "'\uff18\uff10'", "is no port"),
    setting("backwards", 'exclude_outbound_ports = ["90-80"]', "'90-80'", "write 80-90"),
    setting("nothing left", "include_outbound_ports = []", "include_outbound_ports = []", "no port is left"),
    setting("nobody", 'proxy_user = "no-such-user"', "proxy_user = 'no-such-user'", "no such user"),
    setting("a megabyte", f'proxy_mark = "{"9" * 1_000_000}"', "proxy_mark = '999", "..."),
    Case(name="--set unknown", run="diff --netns web --set dsn=true", says=("--set", "dsn = true", "'dns'?")),
    Case(name="--set without =", run="diff --netns web --set dns", says=("--set 'dns'", "NAME=VALUE")),
    Case(name="--set of a type", run="diff web --file FILE --set dns=1", says=("--set", "dns = 1", "true or false")),
    # Namespaces and targets.
    Case(name="unknown target", run="apply --file FILE wbe", says=("'wbe'", "FILE", "did you mean 'web'?")),
    Case(name="both", run="apply --file FILE web --netns web", says=("'web'", "--netns 'web'", "not both")),
    Case(name="missing", run="apply --netns nowhere", says=("nowhere", "/run/netns/nowhere does not exist")),
    Case(
        name="missing, of the file",
        run="apply --file FILE",
        file=WEB.replace('netns = "web"', 'netns = "nowhere"'),
        says=("web", "nowhere", "does not exist"),
    ),
    Case(name="an ended process", run="verify --netns pid:4194303", says=("pid:4194303", "does not exist")),
    Case(name="no process", run="verify --netns pid:0", says=("'pid:0'", "pid:4711")),
    Case(name="a relative path", run="diff --netns ./web", says=("'./web'", "must begin with /")),
    Case(name="an empty name", run="diff --netns ''", says=("netns = ''",)),
    Case(name="a file as netns", run="apply --netns FILE", says=("FILE", "no network namespace")),
    Case(name="a FIFO as netns", run="apply --netns DIR/fifo", says=("DIR/fifo", "no network namespace")),
    Case(name="another kind", run="apply --netns /proc/self/ns/mnt", says=("/proc/self/ns/mnt", "no network namesp")),
    Case(name="the node by its process", run="apply --netns pid:1", says=("'pid:1'", "node's own", 'netns = "host"')),
    Case(name="the node by a path", run="remove --netns /proc/1/ns/net", says=("/proc/1/ns/net", "node's own")),
    Case(name="the node by a name", run="apply --netns node", says=("'node'", "the node's own", 'netns = "host"')),
    Case(name="a long name", run=f"diff --netns {'n' * 100_000}", says=("netns = 'nnn", "...")),
    # The machine.
    Case(name="no root", run="apply --netns web", prefix=NOBODY, says=("needs root", "user 65534", "sudo weir apply")),
    Case(name="no root to confirm", run="confirm --netns web", prefix=NOBODY, says=("needs root", "weir confirm")),
    Case(
        name="held",
        run="apply --netns web --set when_proxy_absent=capture",
        during=owned,
        says=("web", "table inet weir-pod is owned by process", "stop that process"),
    ),
    Case(
        name="somebody's routes",
        run="apply --netns web --set when_proxy_absent=capture --set route_table=77",
        during=foreign_routes,
        says=("web", "route table 77", "aren't Weir's", "let route_table name"),
    ),
    Case(
        name="no libnftables",
        run="apply --netns web",
        environment={"PYTHONPATH": "DIR/without"},
        says=("libnftables can't be loaded", "python3-nftables"),
    ),
    Case(name="nan", run="apply --netns web --confirm nan", says=("--confirm nan: is no time", "31536000, a year")),
    Case(name="inf", run="daemon --file FILE --resync inf", says=("--resync inf: is no time to wait",)),
    Case(name="nothing to confirm", run="confirm --netns web", says=("'web'", "nothing waits to be confirmed")),
    Case(
        name="--confirm beside a daemon",
        run="apply --file FILE --confirm 5",
        during=daemon,
        says=("target 'web'", "--confirm 5", "the daemon holds it", "stop the daemon"),
    ),
    Case(
        name="--set beside a daemon",
        run="apply --file FILE --set dns=false",
        during=daemon,
        says=("target 'web'", "--set dns=false", "the daemon holds it", "change the file"),
    ),
    # The command line.
    Case(name="nothing to remove", run="remove", says=("remove", "--netns, or --all")),
    Case(name="all, and one", run="remove --all --netns web", says=("--netns 'web'", "--all")),
    Case(
        name="a dry run to confirm",
        run="apply --netns web --dry-run --confirm 9",
        says=("apply", "--dry-run", "--confirm 9", "leave one"),
    ),
    Case(name="several to confirm", run="apply --netns web --netns db --confirm 9", says=("one target", "web, db")),
    Case(name="in the open", run="daemon --file FILE --listen 0.0.0.0:9", says=("--listen '0.0.0.0:9'", "loopback")),
    Case(name="no address", run="daemon --file FILE --listen nowhere", says=("--listen 'nowhere'", "unix:/PATH")),
    Case(name="no number", run="wait --netns web --timeout soon", says=("wait", "--timeout 'soon'", "number")),
]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as made:
        for name in ("web", "db"):
            made.run("ip", "netns", "add", name)
            made.run("ip", "-n", name, "link", "set", "lo", "up")
        made.run("ip", "netns", "attach", "node", "1")
        made.run("nft", "-f", "-", stdin="table ip foreign { chain c { tcp dport 22 accept; }; }")
        assert made.weir("apply", "--netns", "web", "--set", "when_proxy_absent=capture").code == 0
        os.mkfifo(made.directory / "fifo")
        (made.directory / "secret.toml").write_text(WEB)
        (made.directory / "secret.toml").chmod(0o600)
        (made.directory / "without").mkdir()
        (made.directory / "without" / "nftables.py").write_text("raise ImportError('it is not installed')\n")
        made.directory.chmod(0o755)
        yield made


def rules(machine: Machine) -> str:
    """All that Weir could have changed."""
    one = "nft -s list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"
    return machine.run("sh", "-ec", f"{one}; for n in web db; do ip netns exec $n sh -ec '{one}'; done")


@pytest.mark.parametrize("case", CASES, ids=[each.name for each in CASES])
def test_it_is_refused_in_one_message(machine: Machine, case: Case) -> None:
    file = machine.directory / "weir.toml"
    file.write_bytes(case.file if isinstance(case.file, bytes) else case.file.encode())
    file.chmod(0o644)

    def put_in(text: str) -> str:
        return text.replace("FILE", str(file)).replace("DIR", str(machine.directory))

    arguments = [put_in(each) for each in shlex.split(case.run)]
    environment = {name: put_in(value) for name, value in case.environment.items()}
    weir = Command(machine.directory, (*machine.prefix, *case.prefix), environment)
    with case.during(machine), ThreadPoolExecutor(2) as at_once:
        before = rules(machine)
        in_text = at_once.submit(weir, *arguments).result
        if case.during is not nothing:
            in_text()  # one after the other, where both get as far as the lock
        in_json = at_once.submit(weir.json, *arguments).result() if "daemon" not in arguments else None
        said = in_text()
        assert rules(machine) == before
        check(said, said.err)
        assert said.out == ""
        lines = said.err.splitlines()
        assert lines[0].startswith(("weir: ", "failed     ")), said.err
        assert all(line.startswith("  ") for line in lines[1:]), said.err
        assert max(map(len, lines)) < 500
        assert not [each for each in map(put_in, case.says) if each not in said.err], said.err
        if in_json is not None:
            check(in_json, said_in(in_json.json))
            assert in_json.err == ""
            assert not [each for each in map(put_in, case.says) if each not in said_in(in_json.json) + "..."]


def check(done: Done, said: str) -> None:
    assert done.code == 2, (done.code, done.out, done.err)
    assert said
    assert "Traceback" not in done.out + done.err


def said_in(document: dict[str, object]) -> str:
    """The message and the hint of a JSON document."""
    failed = document if "error" in document else document["targets"][0]  # type: ignore[index]
    assert isinstance(failed, dict)
    assert failed.get("state", "failed") == "failed"
    names = ("error", "hint") if "error" in failed else ("target", "reason", "hint")
    return "\n".join(str(failed[each]) for each in names)


def test_a_file_of_errors_leaves_the_good_targets(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "weir.toml"
    file.write_text(WEB + '[[target]]\nname = "gone"\nnetns = "gone"\n')
    done = machine.weir("apply", "--file", str(file))
    assert done.code == 2
    assert done.out.startswith("degraded   web: ")
    assert done.err.startswith("failed     gone: ")
