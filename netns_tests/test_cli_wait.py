"""`weir wait`: it returns as soon as it is so, and holds a namespace open no longer than its name means it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.kernel import Opened
from agent.errors import KernelError, NamespaceMissing
from agent.kernel.netns import identify
from agent.targets import Absent, Target
from netns_tests.command import Command
from netns_tests.daemon import appear, vanish
from netns_tests.enrolling import slow
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.world import Host


@pytest.fixture
def weir(tmp_path: Path) -> Command:
    return Command(tmp_path / "run")


@pytest.fixture
def proxy(pod: Host) -> Iterator[Proxy]:
    with Proxy(pod) as running:
        yield running


def test_wait_returns_as_soon_as_it_is_so(pod: Host, weir: Command, proxy: Proxy) -> None:
    here = ("--netns", pod.name)
    now = weir.json("wait", *here, "--for", "absent", "--timeout", "0")
    assert (now.code, now.json["reached"]) == (0, True)
    began = time.monotonic()
    late = weir.json("wait", *here, "--timeout", "0.5")
    assert (late.code, late.json["reached"]) == (1, False)
    assert time.monotonic() - began >= 0.5
    for goal, change in (("captured", "apply"), ("absent", "remove")):
        with weir.started("wait", *here, "--for", goal, "--timeout", "60") as waiting:
            time.sleep(0.5)  # it looks, and has nothing to say
            assert waiting.poll() is None
            assert weir(change, *here).code == 0
            began = time.monotonic()
            out, _ = waiting.communicate(timeout=30)
            assert time.monotonic() - began < slow(2)
            assert waiting.returncode == 0
            assert out.startswith(f"{goal}")


def test_what_looks_again_keeps_the_namespace_open_as_long_as_its_name_means_it() -> None:
    with Namespace.create("again") as place:
        opened = Opened(Target(name="web", netns=str(place.path), wish=Absent()))
        try:
            first = opened.run(lambda target, handle: handle)
            assert opened.run(lambda target, handle: handle) is first
            vanish(place)
            with pytest.raises(NamespaceMissing):
                opened.run(lambda target, handle: handle)
            with pytest.raises(KernelError, match="closed"):
                first.generation()
            appear(place)
            assert opened.run(lambda target, handle: handle.netns.identity) == identify(place.path)
        finally:
            opened.close()


def test_wait_waits_for_a_namespace_that_is_yet_to_come(weir: Command) -> None:
    name = f"wt-{os.getpid()}-0-to-come"
    assert weir("wait", "--netns", name, "--for", "absent").code == 0
    late = weir("wait", "--netns", name, "--timeout", "0.3")
    assert (late.code, late.err) == (1, "")
    assert late.out.startswith(f"not captured {name}: netns = {name!r}")


def test_ctrl_c_ends_waiting_at_once(weir: Command) -> None:
    with weir.started("wait", "--netns", f"wt-{os.getpid()}-0-never", "--timeout", "600") as waiting:
        time.sleep(1)
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=slow(2))
    assert (waiting.returncode, out, err) == (130, "", "")
