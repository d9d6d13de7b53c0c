"""One daemon for a run directory: what keeps a second one away is nothing that another user can take."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
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
