"""An agent that stops leaves everything to the next one, or nothing: by whether its DaemonSet is still there."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pytest

from agent.cni import kubeconfig
from agent.cni.conflist import PLUGIN
from agent.cni.installer import Installer
from agent.errors import KernelError
from agent.pods import departure, leavings
from agent.pods.departure import Departed, Going, Parts, depart, going_for
from agent.pods.standing import PodState, Step
from agent.sources.kubernetes.api import Presence
from agent.sources.kubernetes.eligibility import Enrolment
from tests.cni_folders import CALICO, Folders

WEB = PodState(
    uid="u", namespace="shop", name="web", enrolment=next(iter(Enrolment)), step=Step.DRAINING, reason="2 streams"
)
THERE, GONE, FORBIDDEN, UNKNOWN = Presence
SILENT = "silent"


@dataclass
class Cluster:
    """Answers, one after the other, the last for ever."""

    answers: list[object]
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def daemon_set(self, namespace: str, name: str) -> Presence:
        self.asked.append((namespace, name))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == SILENT:
            await asyncio.Event().wait()
        assert isinstance(answer, Presence)
        return answer


@dataclass
class Node:
    """What an agent has to take leave of, and what happened to it, in order."""

    folder: Path
    answers: Iterable[object] = (Presence.GONE,)
    left: tuple[PodState, ...] = ()
    failing: Exception | None = None
    hanging: bool = False
    done: list[str] = field(default_factory=list)
    drain: float = -1.0
    listed: bool = True

    def __post_init__(self) -> None:
        self.folders = Folders(self.folder)
        self.path = self.folders.write("10-calico.conflist", CALICO)
        self.run = self.folder / "run"
        self.cluster = Cluster(list(self.answers))
        self.before = self.folders.seen()
        self.installer: Installer = self.folders.installer()
        kubeconfig.write(self.run, kubeconfig.Credentials(server="https://x", authority="a", token="t"))  # noqa: S106
        leavings.note(leavings.leavings_of(self.installer.wanted), self.run)  # as `Installing` does
        assert self.installer.put().ready

    @cached_property
    def settled(self) -> asyncio.Event:
        made = asyncio.Event()
        if self.listed:
            made.set()
        return made

    def release_all(self, drain: float) -> None:
        self.drain = drain
        self.done.append(f"pods, entry {'there' if PLUGIN in self.path.read_text() else 'gone'}")

    async def until_released(self, seconds: float) -> tuple[PodState, ...]:
        if self.hanging:
            await asyncio.sleep(seconds)
        return self.left

    async def remove(self) -> None:
        self.done.append("node's table")
        if self.failing:
            raise self.failing

    async def stop_keeping(self) -> None:
        self.done.append("keepers")

    def depart(self, *, daemon_set: str = "weir", grace: float = 25.0) -> Departed:
        parts = Parts(
            api=self.cluster,
            pods=self,
            probes=self,
            installer=self.installer,
            stop_keeping=self.stop_keeping,
            namespace="istio-system",
            daemon_set=daemon_set,
            grace=grace,
            run_directory=self.run,
        )
        return asyncio.run(depart(parts))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departure, "_PAUSE", 0.01)


def test_an_upgrade_leaves_everything(tmp_path: Path) -> None:
    node = Node(tmp_path, [THERE])
    there = node.folders.seen()
    assert node.depart() == Departed(going=Going.RESTART)
    assert node.cluster.asked == [("istio-system", "weir")]
    assert node.folders.seen() == there
    assert node.done == []


def test_an_agent_that_no_daemon_set_started_leaves_everything_and_asks_nobody(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.depart(daemon_set="") == Departed(going=Going.RESTART)
    assert node.cluster.asked == []


def test_an_uninstall_leaves_nothing_in_an_order_that_keeps_pods_starting(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert node.depart() == Departed(going=Going.UNINSTALL)
    assert node.done == ["keepers", "pods, entry gone", "node's table"]
    assert node.folders.seen() == node.before
    assert list(node.run.iterdir()) == []
    assert 10 < node.drain < 25


@pytest.mark.parametrize(
    ("answers", "going"),
    [
        ([GONE, GONE], Going.UNINSTALL),
        ([GONE, THERE], Going.RESTART),
        ([UNKNOWN, UNKNOWN, THERE], Going.RESTART),
        ([GONE, UNKNOWN, GONE], Going.UNINSTALL),
        ([GONE, FORBIDDEN, FORBIDDEN, GONE], Going.UNINSTALL),
        ([GONE, UNKNOWN], Going.UNKNOWN),
        ([UNKNOWN], Going.UNKNOWN),
        ([SILENT], Going.UNKNOWN),
        ([GONE, SILENT], Going.UNKNOWN),
        # An uninstall that has taken the account's rights, too, and an API server that starts.
        ([FORBIDDEN], Going.UNINSTALL),
        ([GONE, FORBIDDEN], Going.UNINSTALL),
        ([FORBIDDEN, FORBIDDEN, THERE], Going.RESTART),
        ([FORBIDDEN, FORBIDDEN, UNKNOWN], Going.UNKNOWN),
        ([UNKNOWN, FORBIDDEN], Going.UNKNOWN),
        ([FORBIDDEN, FORBIDDEN, SILENT], Going.UNKNOWN),
    ],
)
def test_only_an_api_that_says_so_twice_uninstalls(answers: list[object], going: Going) -> None:
    assert asyncio.run(going_for(Cluster(answers), "istio-system", "weir", 0.3)) is going


def test_nobodys_word_leaves_everything_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departure.going_for, "__defaults__", (0.1,))
    node = Node(tmp_path, [UNKNOWN])
    there = node.folders.seen()
    assert node.depart() == Departed(going=Going.UNKNOWN)
    assert node.folders.seen() == there
    assert node.done == []
    assert "DaemonSet istio-system/weir" in caplog.text
    assert "weir remove --all" in caplog.text


def test_pods_that_are_left_are_named_and_keep_the_nodes_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(tmp_path, left=(WEB, replace(WEB, name="db", netns="/run/netns/cni-1")))
    departed = node.depart()
    assert departed.left[0] == "pod/shop/web (netns unknown): draining: 2 streams"
    assert departed.left[1] == "pod/shop/db (netns /run/netns/cni-1): draining: 2 streams"
    assert "node's table" in departed.left[2]
    assert "node's table" not in node.done
    assert all(f"left behind: {each}" in caplog.text for each in departed.left)
    assert "weir remove --all" in caplog.text
    assert node.folders.seen() == node.before


def test_a_table_that_does_not_go_is_left_and_named(tmp_path: Path) -> None:
    node = Node(tmp_path, failing=KernelError(statement="nft delete table inet weir-host", said="EPERM"))
    assert node.depart().left == (
        "the node's table for probes: EPERM\n  while carrying out: nft delete table inet weir-host",
    )


def test_a_fault_of_weirs_own_does_not_keep_the_rest_from_going(tmp_path: Path) -> None:
    node = Node(tmp_path, failing=RuntimeError("a fault"))
    assert node.depart().left == ("the node's table for probes: RuntimeError('a fault')",)
    assert node.folders.seen() == node.before


def test_the_grace_period_is_kept_and_what_is_not_done_in_it_is_left(tmp_path: Path) -> None:
    node = Node(tmp_path, left=(WEB,), hanging=True)
    departed = node.depart(grace=1.5)
    assert departed.going is Going.UNINSTALL
    assert node.drain == 0
    assert "pod/shop/web" in departed.left[0]


def test_an_agent_that_never_knew_its_pods_keeps_the_nodes_table_and_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path, listed=False)
    departed = node.depart(grace=1.5)
    assert "never listed" in departed.left[0]
    assert "node's table" in departed.left[1]
    assert "node's table" not in node.done
    assert node.folders.seen() == node.before


def test_an_entry_that_does_not_go_is_left_and_swept_later(tmp_path: Path) -> None:
    node = Node(tmp_path)
    good = node.path.read_text()
    node.path.write_text(good[:-5])
    departed = node.depart()
    assert f"{node.path}: is no JSON" in departed.left[0]
    assert (node.run / "cni-kubeconfig").exists(), "the plugin is still asked, and asks the API with it"
    assert f"{node.path}: is no JSON" in (leavings.sweep(node.run) or ())[0]
    node.path.write_text(good)
    assert leavings.sweep(node.run) == ()
    assert node.folders.seen() == node.before
    assert list(node.run.iterdir()) == []
    assert leavings.noted(node.run) is None


def test_what_a_killed_uninstall_has_not_done_is_swept(tmp_path: Path) -> None:
    """The note stands before the first file comes."""
    node = Node(tmp_path)
    assert leavings.sweep(node.run) == ()
    assert node.folders.seen() == node.before
    assert list(node.run.iterdir()) == []
