"""`apply --confirm`: kept only when somebody says so; whatever dies meanwhile, nobody is locked out."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.netns import identify
from agent.state import Records
from netns_tests.command import Command, Session
from netns_tests.enrolling import kernel_state, slow
from netns_tests.proxy import Proxy
from netns_tests.world import Host, World, eventually


@pytest.fixture
def pod(world: World) -> Iterator[Host]:
    with Proxy(world.pods[0]):
        yield world.pods[0]


@pytest.fixture
def weir(tmp_path: Path) -> Command:
    return Command(tmp_path / "run")


def captured(pod: Host) -> bool:
    return "weir-pod" in pod.command("nft", "list", "tables")


def is_kept(pod: Host, weir: Command) -> bool:
    """It is there, belongs to nobody, and anybody may take it away again."""
    assert "owner" not in pod.command("nft", "list", "ruleset")
    assert weir("verify", "--netns", pod.name).code == 0
    return weir("remove", "--netns", pod.name).code == 0


def asked(pod: Host, seconds: int, *more: str) -> tuple[str, ...]:
    return ("apply", "--netns", pod.name, "--confirm", str(seconds), *more)


def test_enter_keeps_it(pod: Host, weir: Command) -> None:
    with Session(weir, *asked(pod, 120)) as session:
        shown = session.until("unless confirmed: press Enter, or run `weir confirm --netns")
        assert "applied" in shown
        assert captured(pod)
        session.press("\n")
        assert session.end() == 0
        assert session.output.splitlines()[-1] == "kept"
    assert is_kept(pod, weir)


def test_another_login_keeps_it(pod: Host, weir: Command) -> None:
    before = kernel_state(pod)
    with weir.started(*asked(pod, 120, "--output", "json")) as applying:
        eventually(lambda: weir.json("confirm", "--netns", str(pod.path)).code == 0, "it is confirmed", slow(20))
        out, err = applying.communicate(timeout=slow(20))
    assert (applying.returncode, err) == (0, "")
    assert json.loads(out)["kept"] is True
    assert json.loads(out)["targets"][0]["state"] == "applied"
    assert weir("confirm", "--netns", pod.name).code == 2  # once is enough
    assert is_kept(pod, weir)
    assert kernel_state(pod) == before


def test_a_second_change_leaves_the_first_one_confirmable(pod: Host, weir: Command) -> None:
    with Session(weir, *asked(pod, 120)) as session:
        session.until("unless confirmed")
        again = weir(*asked(pod, 60))
        assert again.code == 2
        assert "a change waits to be confirmed already" in again.err + again.out
        assert weir("confirm", "--netns", pod.name).code == 0
        assert session.end() == 0
    assert is_kept(pod, weir)


def test_it_is_undone_when_nobody_confirms(pod: Host, weir: Command) -> None:
    before = kernel_state(pod)
    began = time.monotonic()
    done = weir(*asked(pod, 1))
    assert time.monotonic() - began >= 1
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines()[-1] == "undone: it was not confirmed in time"
    assert "press Enter" not in done.out  # nobody is there to press it
    assert kernel_state(pod) == before


@pytest.mark.parametrize("before", ["nothing", "rules"])
def test_another_weir_at_work_only_delays_the_undoing(pod: Host, weir: Command, before: str) -> None:
    if before == "rules":
        assert weir("apply", "--netns", pod.name, "--set", "exclude_outbound_ports=[25]").code == 0
    state, identity = kernel_state(pod), identify(pod.path)
    assert identity is not None
    with weir.started(*asked(pod, 2)) as applying:
        assert applying.stdout is not None
        assert applying.stdout.readline().startswith("applied ")
        changed = kernel_state(pod)
        with Records(weir.directory).held(identity):
            time.sleep(4)  # its time is over by then
            assert kernel_state(pod) == changed, "nothing is written under another's lock"
        out, err = applying.communicate(timeout=slow(20))
    assert (applying.returncode, err) == (1, "")
    assert out.splitlines()[-1] == "undone: it was not confirmed in time"
    assert sorted(kernel_state(pod).splitlines()) == sorted(state.splitlines())


def test_the_rules_from_before_come_back(pod: Host, weir: Command) -> None:
    settings = ("--set", "dns=false", "--set", "exclude_outbound_ports=[25]", "--set", "rule_priority=1000")
    assert weir("apply", "--netns", pod.name, *settings).code == 0
    before = kernel_state(pod)
    done = weir.json(*asked(pod, 1))
    assert (done.code, done.json["kept"], done.target["state"]) == (1, False, "applied")
    # nft lists counters in the order in which they came.
    assert sorted(kernel_state(pod).splitlines()) == sorted(before.splitlines())
    assert weir("diff", "--netns", pod.name, *settings).code == 0


@pytest.mark.parametrize("confirmed", [False, True], ids=["undone", "confirmed"])
@pytest.mark.parametrize("lost", ["killed", "login"])
def test_a_lost_command_changes_nothing_about_that(pod: Host, weir: Command, lost: str, confirmed: bool) -> None:
    before = kernel_state(pod)
    seconds = 120 if confirmed else 3
    with Session(weir, *asked(pod, seconds)) as session:
        session.until("unless confirmed")
        if lost == "killed":
            session.process.send_signal(signal.SIGKILL)
        else:
            session.hang_up()
        session.process.wait(slow(10))
    assert captured(pod)
    if confirmed:
        assert weir("confirm", "--netns", pod.name).code == 0
        assert is_kept(pod, weir)
    else:
        eventually(lambda: not captured(pod), "it is undone", slow(20))
    eventually(lambda: kernel_state(pod) == before, "nothing is left", slow(10))


def test_the_kernel_takes_the_rules_away_when_the_guard_is_killed(pod: Host, weir: Command) -> None:
    with weir.started(*asked(pod, 120)) as applying:
        eventually(lambda: list(weir.directory.glob("confirm/*.sock")), "the guard listens", slow(20))
        assert applying.stdout is not None
        assert applying.stdout.readline().startswith("applied ")
        assert captured(pod)
        (guard,) = Path(f"/proc/{applying.pid}/task/{applying.pid}/children").read_text().split()
        os.kill(int(guard), signal.SIGKILL)
        eventually(lambda: not captured(pod), "the table went with its owner", slow(2))
        _, err = applying.communicate(timeout=slow(20))
    assert applying.returncode == 2
    assert err.startswith(f"weir: target {pod.name!r}: the guard was killed before it was confirmed")
    assert weir("confirm", "--netns", pod.name).code == 2
    assert weir("remove", "--netns", pod.name).code == 0  # what is left of rules and routes


def test_nothing_to_change_is_nothing_to_confirm(pod: Host, weir: Command) -> None:
    assert weir("apply", "--netns", pod.name).code == 0
    done = weir(*asked(pod, 120), timeout=slow(30))
    assert (done.code, done.out) == (0, f"unchanged  {pod.name}: all is as wanted\n")
    assert is_kept(pod, weir)


def test_what_waits_or_fails_leaves_no_guard(world: World, weir: Command) -> None:
    pod = world.pods[1]
    done = weir(*asked(pod, 120), timeout=slow(30))
    assert done.code == 1
    assert done.out.startswith("waiting")
    assert not pod.processes()
    assert weir("confirm", "--netns", pod.name).code == 2
