"""One daemon for a run directory: what keeps a second one away is nothing that another user can take."""

import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.daemon.process import alone
from agent.errors import Busy, PermissionMissing

NOBODY = 65534


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run directory as the kubelet makes it for a DaemonSet, which everybody on the way to it may enter."""
    for each in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        each.chmod(0o755)
    folder = tmp_path / "weir"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "namespaces").mkdir()
    return folder


@pytest.mark.parametrize("left", [None, 0o644, 0o666])
def test_another_user_can_not_hold_off_the_daemon(folder: Path, left: int | None) -> None:
    lock = folder / "daemon.lock"
    if left is not None:  # by a version that let everybody read it
        lock.touch()
        lock.chmod(left)
    with alone(lock):
        assert (mode(folder), mode(lock)) == (0o700, 0o600)
    with acting_as(NOBODY), pytest.raises(PermissionError):
        lock.open("rb")
    folder.chmod(0o755)
    with acting_as(NOBODY), pytest.raises(PermissionError):
        lock.open("rb")
    with alone(lock):
        assert mode(folder) == 0o700


def test_a_second_daemon_is_told_of_the_first(folder: Path) -> None:
    lock = folder / "daemon.lock"
    with alone(lock), pytest.raises(Busy, match="another daemon runs already"), alone(lock):
        pass
    with alone(lock):
        pass
    with lock.open("rb") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_that_was_named_keeps_its_mode(folder: Path) -> None:
    named = folder.rename(folder.with_name("shared"))
    with alone(named / "daemon.lock"):
        assert (mode(named), mode(named / "daemon.lock")) == (0o755, 0o600)


def test_a_link_is_no_lock(folder: Path) -> None:
    (folder / "daemon.lock").symlink_to(folder / "elsewhere")
    with pytest.raises(PermissionMissing, match=r"daemon\.lock"), alone(folder / "daemon.lock"):
        pass
    assert not (folder / "elsewhere").exists()


def test_nothing_is_left_where_nothing_else_is(folder: Path) -> None:
    (folder / "namespaces").rmdir()
    with alone(folder / "daemon.lock"):
        assert os.listdir(folder) == ["daemon.lock"]
    assert os.listdir(folder) == []


def test_daemons_that_follow_one_another_are_never_two(folder: Path) -> None:
    (folder / "namespaces").rmdir()
    lock, inside = folder / "daemon.lock", [0, 0]

    def come_and_go() -> None:
        for _ in range(300):
            with suppress(Busy), alone(lock):
                inside[0] += 1
                inside[1] = max(inside[1], inside[0])
                time.sleep(0)
                inside[0] -= 1

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert inside == [0, 1]
