"""What is kept of pods' namespaces over a restart is believed only where it is still so."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from uuid import uuid4

import pytest

from agent.errors import NamespaceMissing, NotANamespace, TargetError
from agent.kernel.netns import Netns, OpenNetns, identify
from agent.sources.kubernetes.sandboxes import Sandbox, Sandboxes, Unfit, Why, is_there, look
from netns_tests.namespace import Namespace
from netns_tests.pod_processes import Pods, address, hierarchies

ADDRESS = ip_address("10.9.8.7")


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace.create("cni") as made:
        made.command("sh", "-c", address(f"{ADDRESS}/24", "fd00:9::7/64"))
        yield made


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Sandboxes]:
    made = Sandboxes(tmp_path / "sandboxes")
    yield made
    made.close()


@pytest.fixture
def pods() -> Iterator[Pods]:
    with Pods(hierarchies()[0]) as made:
        yield made


def seen(netns: str, uid: str = "") -> Sandbox:
    found = look(uid or str(uuid4()), netns, addresses=(ADDRESS,), container="box")
    assert isinstance(found, Sandbox), found
    return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_remembered_is_known_to_the_next_life(namespace: Namespace, saved: Sandboxes, tmp_path: Path) -> None:
    sandbox = seen(str(namespace.path))
    assert sandbox.identity == identify(namespace.path)
    assert sandbox.interface == "eth0"
    assert saved.remember(sandbox) == sandbox
    after = Sandboxes(tmp_path / "sandboxes")
    assert after.known(sandbox.uid) == sandbox
    assert after.all_known() == {sandbox.uid: sandbox}
    assert after.known("another") is None
    after.forget(sandbox.uid)
    after.forget(sandbox.uid)
    assert saved.known(sandbox.uid) is None
    assert after.all_known() == {}


def test_a_namespace_that_has_gone_is_not_known_nor_what_took_its_place(
    namespace: Namespace, saved: Sandboxes, tmp_path: Path
) -> None:
    path = tmp_path / "cni-1"
    path.symlink_to(namespace.path)
    sandbox = saved.remember(seen(str(path)))
    assert saved.known(sandbox.uid) == sandbox
    path.unlink()
    assert saved.known(sandbox.uid) is None
    with Namespace.create("later") as later:
        path.symlink_to(later.path)
        assert saved.known(sandbox.uid) is None
        assert not is_there(sandbox)


def test_an_inode_that_is_used_again_is_told_by_the_cookie(namespace: Namespace, saved: Sandboxes) -> None:
    sandbox = seen(str(namespace.path))
    assert sandbox.cookie
    saved.remember(replace(sandbox, cookie=sandbox.cookie + 1))
    assert saved.known(sandbox.uid) is None


def test_without_cookies_an_inode_is_told_by_the_pods_address(namespace: Namespace) -> None:
    """As before Linux 5.14."""
    sandbox = replace(seen(str(namespace.path)), cookie=0)
    other = look(sandbox.uid, sandbox.netns, addresses=(ip_address("10.9.8.8"),))
    assert isinstance(other, Unfit)
    assert not is_there(replace(sandbox, addresses=(ip_address("10.9.8.8"),)))


def test_nothing_is_known_of_another_boot_or_from_a_file_that_is_no_use(
    namespace: Namespace, saved: Sandboxes, tmp_path: Path
) -> None:
    sandbox = saved.remember(seen(str(namespace.path)))
    file = tmp_path / "sandboxes" / f"{sandbox.uid}.json"
    good = json.loads(file.read_text())
    wrongs: list[object] = [
        {**good, "boot": "another"},
        {**good, "uid": "another"},
        {**good, "netns": "a/b"},
        {**good, "addresses": ["10.0.0.300"]},
        {**good, "inode": None},
        {key: each for key, each in good.items() if key != "cookie"},
        [],
        "",
    ]
    for wrong in wrongs:
        file.write_text(json.dumps(wrong))
        assert saved.known(sandbox.uid) is None, wrong
    for text in ("", "{", '{"boot": ', "\0" * 100):
        file.write_text(text)
        assert saved.all_known() == {}
    file.write_text(json.dumps(good))
    assert saved.known(sandbox.uid) == sandbox


def test_a_namespace_that_only_processes_keep_outlives_the_first_of_them(pods: Pods, saved: Sandboxes) -> None:
    first = pods.start("pod/a", script=address(f"{ADDRESS}/24"))
    second = pods.start("pod/b", script=f"nsenter --net=/proc/{first}/ns/net true", options=())
    sandbox = seen(f"pid:{first}")
    lasting = saved.remember(sandbox)
    assert lasting == replace(sandbox, netns=lasting.netns)
    assert lasting.netns.startswith(f"/proc/{os.getpid()}/fd/")
    assert saved.known(sandbox.uid) == lasting
    pods.end(first)
    opened = OpenNetns(Netns(lasting.netns))
    assert opened.identity == sandbox.identity
    opened.close()
    # It may be another one that the pod has by now, so that it is to be looked for again.
    assert saved.known(sandbox.uid) is None
    again = replace(sandbox, netns=lasting.netns)
    assert saved.remember(replace(again, container="another")).netns == lasting.netns
    saved.forget(sandbox.uid)
    assert identify(lasting.netns) != sandbox.identity
    pods.end(second)


def test_no_descriptor_is_left(pods: Pods, tmp_path: Path) -> None:
    pid = pods.start("pod", script=address(f"{ADDRESS}/24"))
    before = descriptors()
    saved = Sandboxes(tmp_path)
    for uid in ("one", "two", "one"):
        saved.remember(seen(f"pid:{pid}", uid))
    assert set(saved.all_known()) == {"one", "two"}
    assert descriptors() == before + 2
    saved.keep_only({"two"})
    assert descriptors() == before + 1
    assert set(saved.all_known()) == {"two"}
    saved.close()
    assert descriptors() == before
    assert set(Sandboxes(tmp_path).all_known()) == {"two"}


def test_the_nodes_own_namespace_is_refused_under_every_path(pods: Pods) -> None:
    pid = pods.start("pod", options=())
    for netns in (f"pid:{pid}", "/proc/self/ns/net"):
        found = look("uid", netns)
        assert isinstance(found, Unfit)
        assert (found.why, found.lasting) == (Why.HOST_NETWORK, True)
        assert "node's own namespace" in found.reason


def test_what_is_no_namespace_is_an_error_that_names_it(tmp_path: Path, saved: Sandboxes) -> None:
    with pytest.raises(NamespaceMissing, match="pid:4194304"):
        look("uid", "pid:4194304")
    with pytest.raises(NotANamespace, match="/dev/null"):
        look("uid", "/dev/null")
    with pytest.raises(TargetError, match="is not as Kubernetes makes them"):
        saved.known("../../etc/passwd")
    saved.forget("../../etc/passwd")


def test_remembering_what_has_just_gone_raises_and_keeps_what_was_kept(
    namespace: Namespace, pods: Pods, saved: Sandboxes
) -> None:
    kept = saved.remember(seen(str(namespace.path), "uid"))
    pid = pods.start("pod", script=address(f"{ADDRESS}/24"))
    gone = seen(f"pid:{pid}", "uid")
    pods.end(pid)
    with pytest.raises(NamespaceMissing):
        saved.remember(gone)
    assert saved.known("uid") == kept


def test_several_threads_remember_several_pods(namespace: Namespace, saved: Sandboxes) -> None:
    sandbox = seen(str(namespace.path))
    wanted = [replace(sandbox, uid=f"pod-{number}") for number in range(50)]
    with ThreadPoolExecutor(4) as workers:
        assert list(workers.map(saved.remember, wanted)) == wanted
    assert set(saved.all_known()) == {each.uid for each in wanted}


WRITER = """
import sys
from pathlib import Path
from agent.sources.kubernetes.sandboxes import Sandbox, Sandboxes, look
saved, found = Sandboxes(Path(sys.argv[1])), look("uid", sys.argv[2])
assert isinstance(found, Sandbox)
print("ready", flush=True)
while True:
    saved.remember(found)
"""


def test_a_killed_writer_leaves_what_was_there_or_what_it_wrote(namespace: Namespace, tmp_path: Path) -> None:
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(namespace.path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        left = sorted(tmp_path.glob("*.json"))
        saved = Sandboxes(tmp_path)
        assert len(saved.all_known()) == len(left)
        saved.keep_only({"uid"})
        assert sorted(tmp_path.iterdir()) == left
