"""`weir migrate`: another agent's rules give way to Weir's and come back, whatever else is there."""

import fcntl
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.migration.journal import Step
from netns_tests.command import Command
from netns_tests.daemon import Daemon
from netns_tests.enrolling import alive, every_way, kernel_state, slow, ways
from netns_tests.istio_rules import istio_rules
from netns_tests.old_agents import AGENTS, beside, enrolled_by, saved
from netns_tests.proxy import Proxy
from netns_tests.world import Host, World

CAPTURED = ["captured"] * 4
FORWARD = [step for step in Step if list(Step).index(step) <= list(Step).index(Step.MIGRATED)]
BACK = [step for step in Step if step not in FORWARD]
# Cilium's chains have no DNS and no probes; Weir's own rules for iptables need no words.
SETTINGS = {"cilium": ("--set", "dns=false", "--set", "probe_sources=[]")}


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of the test's own: the usual one belongs to the machine."""
    path = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    return path


@pytest.fixture
def weir(tmp_path: Path, lock: Path) -> Command:
    return Command(tmp_path / "run", environment={"XTABLES_LOCKFILE": str(lock)})


@pytest.fixture
def proxy(pod: Host) -> Iterator[Proxy]:
    with Proxy(pod) as running:
        yield running


def told(text: str) -> list[str]:
    return re.findall(r"^step: (\S+)$", text, re.MULTILINE)


def uncounted(saves: dict[str, str]) -> dict[str, str]:
    return {name: re.sub(r"\[\d+:\d+\]", "[]", text) for name, text in saves.items()}


def foreign(saves: dict[str, str]) -> dict[str, list[str]]:
    """The chains and rules that are neither the old agent's nor lead to it, with their counters."""
    theirs = re.compile(r"ISTIO|CILIUM_(PREROUTING|OUTPUT)|weir-pod|^:(PREROUTING|INPUT|OUTPUT|FORWARD|POSTROUTING) ")
    return {name: [line for line in text.splitlines() if not theirs.search(line)] for name, text in saves.items()}


def old_is_gone(pod: Host) -> None:
    left = pod.command("nft", "-s", "list", "ruleset") + "".join(saved(pod).values())
    assert not re.search(r"ISTIO_|istio-ambient|CILIUM_|weir-pod-", left)
    for ip in ("-4", "-6"):
        rules = [line for line in pod.command("ip", ip, "rule").splitlines() if "fwmark" in line]
        assert len(rules) == 1, rules
        assert rules[0].endswith("proto 119")
        routes = pod.command("ip", ip, "route", "show", "table", "100").splitlines()
        assert len(routes) == 1, routes
        assert "proto 119" in routes[0]


@pytest.mark.parametrize("agent", AGENTS)
def test_there_and_back(world: World, pod: Host, weir: Command, proxy: Proxy, agent: str) -> None:
    here = ("migrate", "--netns", pod.name, *SETTINGS.get(agent.partition("-")[0], ()))
    beside(pod, "legacy" if "legacy" in agent else "nft")
    enrolled_by(pod, agent)
    assert ways(world, pod) == CAPTURED
    before, rules_before, routes = saved(pod), pod.command("nft", "-s", "list", "ruleset"), kernel_state(pod)
    with ExitStack() as stack:
        streams = every_way(stack, world, pod)
        # For services that kube-proxy has, they differ: it was asked first.
        dry = weir.json(*here, "--dry-run", "--accept-differences")
        assert (dry.code, dry.target["state"]) == (0, "ready"), dry
        assert kernel_state(pod) == routes
        done = weir.json(*here, "--accept-differences")
        assert (done.code, done.target["state"]) == (0, "migrated"), done
        assert told(done.err) == FORWARD
        old_is_gone(pod)
        assert foreign(saved(pod)) == foreign(before)
        assert weir("verify", "--netns", pod.name, *here[3:]).code == 0
        assert ways(world, pod) == CAPTURED
        assert alive(streams) == ["alive"] * 4
        assert weir.json(*here).target["state"] == "nothing"
        streams += every_way(stack, world, pod)
        back = weir.json(*here, "--back")
        assert (back.code, back.target["state"]) == (0, "returned"), back
        assert told(back.err) == BACK
        assert uncounted(saved(pod)) == uncounted(before)
        assert pod.command("nft", "-s", "list", "ruleset") == rules_before
        assert ways(world, pod) == CAPTURED
        assert alive(streams) == ["alive"] * 8
        assert weir.json(*here, "--back").target["state"] == "nothing"
    again = kernel_state(pod)
    assert [line for line in again.splitlines() if "119" in line] == []


@pytest.mark.parametrize(
    ("agent", "step"),
    [
        *(("istio-native", step) for step in (Step.ROUTES, Step.VERIFY, Step.MIGRATED, Step.TABLE_AWAY)),
        # What is of iptables changes in several steps of its own.
        *(("istio-legacy", step) for step in (Step.REMOVE, Step.OLD_RULES_BACK, Step.OLD_DNS_BACK)),
    ],
)
def test_what_is_killed_goes_on_in_either_direction(
    world: World, pod: Host, weir: Command, proxy: Proxy, agent: str, step: Step
) -> None:
    here = ("migrate", "--netns", pod.name)
    enrolled_by(pod, agent)
    before, rules = uncounted(saved(pod)), pod.command("nft", "-s", "list", "ruleset")
    with ExitStack() as stack:
        streams = every_way(stack, world, pod)
        back = ["--back"] if step in BACK else []
        if back:
            assert weir(*here).code == 0
        killed_at(weir, step, *here, *back)
        assert ways(world, pod) == CAPTURED
        if step not in (Step.MIGRATED, Step.RETURNED):
            for command in ("apply", "remove"):
                refused = weir(command, "--netns", pod.name)
                assert (refused.code, "half-done" in refused.err) == (2, True), refused
        again = weir(*here, *back)
        assert again.code == 0, again
        assert ways(world, pod) == CAPTURED
        there = weir(*here, *([] if back else ["--back"]))
        assert there.code == 0, there
        if back:
            old_is_gone(pod)
            assert weir(*here, "--back").code == 0
        assert ways(world, pod) == CAPTURED
        assert alive(streams) == ["alive"] * 4
    assert uncounted(saved(pod)) == before
    assert pod.command("nft", "-s", "list", "ruleset") == rules


def test_a_daemon_leaves_what_is_half_done_or_finishes_it(pod: Host, tmp_path: Path, proxy: Proxy) -> None:
    enrolled_by(pod, "istio-native")
    file = f'[[target]]\nname = "web"\nnetns = "{pod.name}"\n'
    with Daemon(tmp_path, file) as daemon:
        killed_at(Command(daemon.directory), Step.VERIFY, "migrate", "--netns", pod.name)
        half = kernel_state(pod)
        daemon.start()
        daemon.eventually(lambda: "half-done" in str(daemon.target("web").get("reason")), "it is told")
        assert kernel_state(pod) == half
        daemon.rewrite(f"{file}migrate = true\n")
        daemon.eventually(lambda: daemon.state("web") == "unchanged", "it is finished")
        old_is_gone(pod)


def killed_at(weir: Command, step: Step, *arguments: str) -> None:
    """Start a command and kill it when it says that a step begins."""
    with weir.started(*arguments) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line == f"step: {step}\n":
                process.kill()
                break
        process.wait()


def test_a_difference_keeps_everything_as_it_is(world: World, pod: Host, weir: Command, proxy: Proxy) -> None:
    enrolled_by(pod, "istio-nft")
    before = kernel_state(pod)
    here = ("migrate", "--netns", pod.name, "--set", "exclude_outbound_ports=[443]")
    refused = weir(*here)
    said = refused.out.splitlines()
    assert (refused.code, told(refused.err)) == (1, [])
    assert said[0].startswith(f"refused    {pod.name}: a packet would fare differently: ")
    assert ":443 tcp" in said[0]
    assert said[-1].startswith(f"`weir migrate --netns {pod.name} --set 'exclude_outbound_ports=[443]' --accept-")
    assert kernel_state(pod) == before
    accepted = weir.json(*here, "--accept-differences")
    assert (accepted.code, accepted.target["state"]) == (0, "migrated"), accepted
    assert ways(world, pod) == CAPTURED


def test_what_cannot_be_read_is_unknown_and_can_be_accepted(pod: Host, weir: Command, proxy: Proxy) -> None:
    enrolled_by(pod, "istio-nft")
    odd = "-t nat -I OUTPUT -p tcp --dport 81 -m statistic --mode random --probability 0.5 -j ACCEPT"
    pod.command("iptables-nft", *odd.split())
    before = saved(pod)
    here = ("migrate", "--netns", pod.name)
    refused = weir.json(*here)
    assert (refused.code, refused.target["state"]) == (2, "refused"), refused
    assert "nobody can tell" in refused.target["reason"]
    assert uncounted(saved(pod)) == uncounted(before)
    assert weir(*here, "--accept-differences").code == 0
    assert foreign(saved(pod)) == foreign(before)


@pytest.mark.parametrize("setting", ['connection_mark="0x222/0xfff"', "inbound=false", 'families=["ipv4"]'])
def test_what_would_lose_captured_streams_is_refused_by_name(
    pod: Host, weir: Command, proxy: Proxy, setting: str
) -> None:
    enrolled_by(pod, "istio-nft")
    before = kernel_state(pod)
    refused = weir("migrate", "--netns", pod.name, "--accept-differences", "--set", setting)
    assert refused.code == 2
    assert "weir apply" in refused.err
    assert kernel_state(pod) == before


def test_a_table_with_routes_of_somebody_else_is_refused_beforehand(pod: Host, weir: Command, proxy: Proxy) -> None:
    enrolled_by(pod, "istio-native")
    pod.ip("route add 192.0.2.0/24 dev lo table 100")
    before = kernel_state(pod)
    for dry in (["--dry-run"], []):
        refused = weir("migrate", "--netns", pod.name, *dry)
        assert (refused.code, "route table 100" in refused.err, told(refused.err)) == (2, True, []), refused
    assert kernel_state(pod) == before
    assert weir("migrate", "--netns", pod.name, "--back").code == 2, "nothing was begun"


def test_an_agent_that_came_back_gets_its_routes_back_too(world: World, pod: Host, weir: Command, proxy: Proxy) -> None:
    here = ("migrate", "--netns", pod.name)
    enrolled_by(pod, "istio-native")
    before = kernel_state(pod)
    assert weir(*here).code == 0
    pod.nft(istio_rules())  # and finds rules and routes that do what its own would
    assert weir(*here).code == 0
    assert weir(*here, "--back").code == 0
    assert ways(world, pod) == CAPTURED
    assert kernel_state(pod) == before


def test_a_sidecars_chains_and_an_empty_pod_are_left_alone(pod: Host, weir: Command, proxy: Proxy) -> None:
    here = ("migrate", "--netns", pod.name)
    assert weir.json(*here).target["state"] == "nothing"
    assert weir(*here, "--back").code == 2
    pod.command(
        "iptables-nft-restore",
        stdin="*nat\n:ISTIO_OUTPUT - [0:0]\n:ISTIO_REDIRECT - [0:0]\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\n"
        "-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n",
    )
    before = kernel_state(pod)
    assert weir.json(*here).target["state"] == "nothing"
    assert kernel_state(pod) == before


def test_a_held_lock_delays_only_the_legacy_rules_and_is_told(
    world: World, pod: Host, weir: Command, proxy: Proxy, lock: Path
) -> None:
    enrolled_by(pod, "istio-legacy")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with weir.started("migrate", "--netns", pod.name) as process:
            assert process.stderr is not None
            while process.stderr.readline() != "step: remove\n":
                assert process.poll() is None
            waiting = process.stderr.readline()
            assert waiting.startswith("waiting: another program has held the xtables lock for 1 s"), waiting
            assert "weir-pod" in pod.command("nft", "list", "tables")
            fcntl.flock(held, fcntl.LOCK_UN)
            assert process.wait(slow(40)) == 0
    old_is_gone(pod)


def test_two_at_once_leave_one_result(pod: Host, weir: Command, proxy: Proxy) -> None:
    enrolled_by(pod, "istio-nft")
    here = ("migrate", "--netns", pod.name)
    with weir.started(*here) as one, weir.started(*here) as other:
        results = [(each.wait(slow(60)), each.communicate()[1]) for each in (one, other)]
    assert 0 in [code for code, _ in results], results
    assert all(code == 0 or "another Weir" in said for code, said in results), results
    old_is_gone(pod)


def test_a_daemon_migrates_only_where_the_file_says_so(world: World, pod: Host, tmp_path: Path, weir: Command) -> None:
    enrolled_by(pod, "istio-nft")
    file = f'[defaults]\n{{}}\n[[target]]\nname = "web"\nnetns = "{pod.name}"\n'
    with Proxy(pod), ExitStack() as stack:
        streams = every_way(stack, world, pod)
        with Daemon(tmp_path, file.format("")) as daemon:
            daemon.start()
            daemon.eventually(lambda: daemon.state("web") == "failed", "the route table is somebody else's")
            assert "ISTIO_" in pod.command("iptables-nft-save")
            refused = Command(daemon.directory)("migrate", "--netns", pod.name)
            assert (refused.code, "migrate = true" in refused.err) == (2, True)
            daemon.rewrite(file.format("migrate = true"))
            daemon.eventually(lambda: "ISTIO_" not in pod.command("iptables-nft-save"), "the daemon migrates")
            daemon.eventually(lambda: daemon.state("web") == "unchanged", "it is as wanted")
            assert ways(world, pod) == CAPTURED
            old_is_gone(pod)
        assert alive(streams) == ["alive"] * 4
