"""`weir doctor` as a user starts it, on a machine of the test's own: words, codes, no root, strange machines."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.doctor import Node, examine
from agent.kernel.netns import Netns, identify
from agent.migration.journal import Journal, Progress, Step
from agent.migration.old import Old
from netns_tests.command import Command, Done
from netns_tests.examined import examined, found
from netns_tests.machine import Machine
from netns_tests.old_agents import enrolled_by
from netns_tests.world import Host, World

NOWHERE = ("--cni-conf-dir", "/nowhere-at-all")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
FIRST_LINE = re.compile(r"(all is well: )?\d+ errors?, \d+ warnings?, (\d+ unchecked, )?\d+ notes? in \d+ checks of .*")
ISTIO = '{"name": "n", "cniVersion": "0.3.1", "plugins": [{"type": "calico"}, {"type": "istio-cni"}]}'


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


def checks(done: Done, level: str) -> list[str]:
    return [each["check"] for each in done.json["findings"] if each["level"] == level]


def test_a_good_machine_is_said_to_be_well_and_stays_as_it_is(machine: Machine) -> None:
    before = machine.state()
    done = machine.weir("doctor", *NOWHERE)
    assert machine.state() == before
    assert FIRST_LINE.fullmatch(done.out.splitlines()[0]), done.out
    assert not done.err
    assert " error " not in done.out.splitlines()[0].replace("0 errors", "")
    assert done.code in (0, 1)


def test_findings_as_text_and_as_json(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "10-n.conflist").write_text(ISTIO)
    done = machine.weir("doctor", "--cni-conf-dir", str(tmp_path))
    assert done.code == 2
    lines = done.out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("error"))
    assert lines[at] == f"error     node: other-agent: {tmp_path}/10-n.conflist has an entry of istio-cni"
    assert lines[at + 1].startswith("          Istio's node agent captures")
    assert lines[at + 2].startswith("          take Istio's CNI agent off this node")
    told = machine.weir.json("doctor", "--cni-conf-dir", str(tmp_path))
    assert told.code == 2
    assert "other-agent" in checks(told, "error")
    document = told.json
    counted = {name: sum(each["level"] == level for each in document["findings"]) for name, level in LEVELS.items()}
    assert counted == {name: document[name] for name in LEVELS}
    assert document["examined"] == ["node"]
    for each in document["findings"]:
        assert set(each) == {"check", "where", "level", "what", "why", "do", "command"}
        assert each["what"]
        assert each["why"]


LEVELS = {"errors": "error", "warnings": "warning", "unchecked": "unchecked", "notes": "note"}


def test_the_node_as_a_target_makes_collisions_errors(machine: Machine) -> None:
    machine.run("ip", "rule", "add", "pref", "500", "fwmark", "0x539/0xfff", "lookup", "main")
    assert "mark-collision" in checks(machine.weir.json("doctor", *NOWHERE), "note")
    done = machine.weir.json("doctor", "--netns", "host", *NOWHERE)
    assert "mark-collision" in checks(done, "error")
    assert done.code == 2
    other = machine.weir.json("doctor", "--netns", "host", "--set", "proxy_mark=0x1000/0xf000", *NOWHERE)
    assert "mark-collision" not in checks(other, "error")


def test_without_root_it_checks_what_it_can_and_says_what_it_could_not(machine: Machine) -> None:
    machine.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    machine.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 60999")
    weir = Command(machine.directory, (*machine.prefix, *NOBODY))
    done = weir.json("doctor", *NOWHERE)
    assert done.code == 1, done.out
    assert "port-range" in checks(done, "note"), "it needs no privilege"
    unchecked = [each for each in done.json["findings"] if each["level"] == "unchecked"]
    assert {"kernel", "foreign-rules", "marks"} <= {each["check"] for each in unchecked}
    assert all("root" in each["do"] for each in unchecked)
    text = weir("doctor", *NOWHERE)
    assert "sudo weir doctor" in text.out.splitlines()[-1]


@pytest.mark.parametrize("hidden", ["/proc", "/proc/sys", "/proc/sys/net/netfilter", "/sys"])
def test_a_strange_machine_ends_no_examination(machine: Machine, hidden: str) -> None:
    machine.run("mount", "-t", "tmpfs", "none", hidden)
    done = machine.weir.json("doctor")
    assert done.code in (0, 1, 2)
    assert not done.err
    assert done.json["checks"] >= 10 if hidden != "/proc" else done.json["unchecked"]


def test_a_migration_that_was_begun_is_named_with_what_takes_it_up(machine: Machine) -> None:
    machine.run("ip", "netns", "add", "web")
    place = identify(f"/proc/{machine.pid}/root/run/netns/web")
    assert place is not None
    nothing = Old(owners=(), chains=(), nft=(), rules=(), routes=())
    begun = Progress(name="web", netns="web", cookie=1, step=Step.TABLE, old=nothing)
    Journal(machine.directory).write(place, begun)
    done = machine.weir.json("doctor", *NOWHERE)
    (named,) = [each for each in done.json["findings"] if each["check"] == "migration"]
    assert (done.code, named["command"]) == (2, "weir migrate --netns web")


def test_targets_that_can_t_be_read_are_an_error_of_the_command_line(machine: Machine, tmp_path: Path) -> None:
    done = machine.weir("doctor", "--file", str(tmp_path / "none.toml"))
    assert (done.code, done.out) == (2, "")
    assert "none.toml" in done.err


def test_a_check_that_fails_is_a_finding_of_its_own(world: World) -> None:
    def fails() -> None:
        raise RuntimeError("what nobody thought of")

    nowhere = Path("/nowhere-at-all")
    node = Node(machine=fails, netns=Netns(world.node.name), configurations=nowhere, programs=nowhere)  # type: ignore[arg-type]
    diagnosis = examine((), node)
    (failed,) = [each for each in diagnosis.findings if each.check == "machine"]
    assert failed.level == "unchecked"
    assert "RuntimeError: what nobody thought of" in failed.what
    assert diagnosis.checks > 8


@pytest.mark.parametrize("agent", ["istio-nft", "istio-legacy"])
def test_another_agent_s_rules_in_a_target(world: World, pod: Host, agent: str) -> None:
    enrolled_by(pod, agent)
    named = found(examined(world.node, pod), "other-agent", pod)
    assert named
    assert all("Istio" in each.what for each in named)
    assert named[0].command == f"weir migrate --netns {pod.name} --dry-run"
    assert json.dumps([each.document() for each in named])
