"""Namespaces by every way of naming one, and what is refused under each."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import NamespaceMissing, NodeNamespace, NotANamespace, PermissionMissing, TargetError
from agent.kernel import netns
from agent.kernel.netns import (
    NETNS_DIRECTORY,
    Netns,
    OpenNetns,
    everywhere,
    identify,
    mounted,
    named,
    node_identity,
    node_namespace,
)
from netns_tests.kernel_tables import thread_cookie
from netns_tests.namespace import Namespace
from netns_tests.syscalls import unpin


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace.create("named") as made:
        yield made


def opened(text: str) -> netns.Identity:
    found = OpenNetns(Netns(text))
    found.close()
    return found.identity


def links(text: str) -> str:
    """The interfaces that a thread sees inside."""
    found = OpenNetns(Netns(text))
    try:
        with found.entered():
            return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    finally:
        found.close()


def test_a_namespace_is_the_same_by_name_path_and_process(namespace: Namespace) -> None:
    namespace.ip("link add marked type veth peer name other")
    process = namespace.spawn(["sleep", "60"])
    texts = (namespace.name, str(namespace.path), f"pid:{process.pid}", f"/proc/{process.pid}/ns/net")
    assert {opened(text) for text in texts} == {identify(namespace.path)}
    for text in texts:
        assert "marked" in links(text)
    assert str(identify(namespace.path)) == f"{namespace.path.stat().st_dev}:{namespace.path.stat().st_ino}"


def test_a_thread_comes_home_from_a_namespace(namespace: Namespace) -> None:
    home = Path("/proc/thread-self/ns/net").readlink()
    found = OpenNetns(Netns(namespace.name))
    with found.entered():
        assert Path("/proc/thread-self/ns/net").readlink() != home
        with found.entered():
            pass
        assert Path("/proc/thread-self/ns/net").readlink() != home
    with pytest.raises(RuntimeError, match="on purpose"), found.entered():
        raise RuntimeError("on purpose")
    assert Path("/proc/thread-self/ns/net").readlink() == home
    found.close()


def test_host_is_the_node_and_nothing_else_is() -> None:
    assert opened("host") == node_identity() == identify(node_namespace())
    assert Netns("host").is_host
    assert not Netns("/proc/1/ns/net").is_host


def test_the_node_by_another_name_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "innocent"
    link.symlink_to(node_namespace())
    # Process 1 may be hidden from root as well (a user namespace, hidepid): then it can't be asked for by its number.
    first = ("pid:1",) if identify(Path("/proc/1/ns/net")) else ()
    for text in (*first, str(node_namespace()), f"pid:{os.getpid()}", str(link)):
        with pytest.raises(NodeNamespace, match=re.escape(f"{text!r}")) as refused:
            opened(text)
        assert 'netns = "host"' in refused.value.hint


@pytest.mark.parametrize(
    "text", ["", "\0", "a/b", "./a", ".", "..", "pid:", "pid:0", "pid:-1", "pid:x", "pid:1 ", "pid:٣"]
)
def test_what_can_name_no_namespace_is_refused_unseen(text: str) -> None:
    with pytest.raises(TargetError, match="netns = "):
        Netns(text)


def test_what_is_not_there_is_missing() -> None:
    for text in ("wt-none", "/run/netns/wt-none", "pid:4194305", "/dev/null/ns"):
        with pytest.raises(NamespaceMissing, match="does not exist") as missing:
            opened(text)
        assert text in str(missing.value)


def test_what_is_no_network_namespace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    stale = NETNS_DIRECTORY / f"wt-{os.getpid()}-0-stale"  # as `ip netns` leaves one whose mount is gone
    stale.touch()
    try:
        for text in (
            *("/proc/self/ns/mnt", "/proc/self/ns/user", "/proc/self/status", "/dev/null", "/", stale.name),
            *(f"{tmp_path}/{name}" for name in ("file", "fifo", "loop")),
        ):
            with pytest.raises(NotANamespace, match=re.escape(text)):
                opened(text)
    finally:
        stale.unlink()


def test_a_process_that_is_dead_but_not_buried_has_no_namespace(namespace: Namespace) -> None:
    process = namespace.spawn(["sleep", "60"])
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises((NamespaceMissing, PermissionMissing)):
        opened(f"pid:{process.pid}")


def test_a_namespace_that_was_deleted_is_noticed() -> None:
    with Namespace.create("gone") as namespace:
        found = OpenNetns(Netns(namespace.name))
        found.check()
    with pytest.raises(NamespaceMissing, match="no longer leads to"):
        found.check()
    found.close()
    found.close()
    with pytest.raises(NamespaceMissing):
        found.check()


def test_another_namespace_under_the_same_name_is_noticed(namespace: Namespace) -> None:
    found = OpenNetns(Netns(namespace.name))
    with Namespace.create("other") as other:
        unpin(namespace.path)
        namespace.path.symlink_to(other.path)
        assert identify(namespace.path) == identify(other.path)
        with pytest.raises(NamespaceMissing, match=re.escape(str(found.identity))):
            found.check()
        namespace.path.unlink()
    found.close()


def test_a_process_that_moved_is_noticed(namespace: Namespace) -> None:
    """`pid:N` is what the process is in now: here it leaves for a namespace of its own."""
    process = namespace.spawn(
        [
            "python3",
            "-c",
            "import ctypes, time; input(); ctypes.CDLL(None).unshare(0x40000000); print(1); time.sleep(60)",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    found = OpenNetns(Netns(f"pid:{process.pid}"))
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.close()
    process.stdout.readline()
    with pytest.raises(NamespaceMissing):
        found.check()
    found.close()


def test_cookies_tell_namespaces_apart(namespace: Namespace) -> None:
    def cookie(text: str) -> int:
        found = OpenNetns(Netns(text))
        try:
            with found.entered():
                return thread_cookie()
        finally:
            found.close()

    with Namespace.create("other") as other:
        cookies = {cookie(text) for text in (namespace.name, other.name, "host")}
        assert len(cookies) == 3
        assert 0 not in cookies
        assert cookie(namespace.name) == cookie(str(namespace.path)) == namespace.run(thread_cookie)


def test_everywhere_finds_named_mounted_and_nameless_ones(tmp_path: Path) -> None:
    with Namespace.create("named") as with_name, Namespace.create("nameless") as nameless:
        process = nameless.spawn(["sleep", "60"])
        identity = identify(nameless.path)
        assert identity is not None
        found = everywhere()
        assert found[identity].text == nameless.name  # a name is what a reader knows it by
        assert Netns(with_name.name) in named()
        unpin(nameless.path)
        found = everywhere()
        assert found[identity] == Netns(f"pid:{process.pid}")
        own = identify(with_name.path)
        assert own is not None
        assert found[own] == Netns(with_name.name)
        assert node_identity() not in found
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert identity not in everywhere()


def test_a_path_outside_of_run_netns_is_found(tmp_path: Path) -> None:
    with Namespace.create("mounted") as namespace:
        identity = identify(namespace.path)
        assert identity is not None
        elsewhere = tmp_path / "a blank"
        elsewhere.touch()
        subprocess.run(["mount", "--bind", namespace.path, elsewhere], check=True)
        try:
            unpin(namespace.path)
            assert Netns(str(elsewhere)) in mounted()
            assert everywhere()[identity] == Netns(str(elsewhere))
            assert opened(str(elsewhere)) == identity
        finally:
            subprocess.run(["umount", elsewhere], check=True)
        assert identity not in everywhere()


def test_without_rights_it_is_a_matter_of_rights(namespace: Namespace) -> None:
    user = 65534
    process = namespace.spawn(["sleep", "60"])

    def as_nobody() -> None:
        os.seteuid(user)
        try:
            opened(f"pid:{process.pid}")
        finally:
            os.seteuid(0)

    # libc spreads seteuid over all threads, so this is done in a process of its own.
    child = os.fork()
    if not child:
        try:
            as_nobody()
        except PermissionMissing as error:
            os._exit(0 if "root" in error.hint else 2)
        except BaseException:  # noqa: BLE001 - said by the exit status
            os._exit(3)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
