"""The socket's path: made whole, refused where somebody is, taken over where nobody is, handed over without a gap."""

import os
import socket
from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.mesh.listener import Listener, Place, look


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "ztunnel.sock"


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def test_it_listens_with_nothing_beside_it_and_leaves_nothing(path: Path) -> None:
    listener = Listener.at(path)
    assert connects(path)
    assert os.listdir(path.parent) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600
    assert listener.place() is Place.OURS
    listener.close()
    assert os.listdir(path.parent) == []


def test_other_users_may_connect_where_they_are_to(path: Path) -> None:
    listener = Listener.at(path, frozenset({0, 1337}))
    assert path.stat().st_mode & 0o777 == 0o666
    listener.close()


def test_a_socket_that_a_killed_agent_left_is_replaced(path: Path) -> None:
    dead = Listener.at(path)
    dead.socket.close()
    left = path.with_name(f".{path.name}.4711")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as half_made:
        half_made.bind(str(left))
    assert look(path) is Place.STALE
    listener = Listener.at(path)
    assert connects(path)
    assert os.listdir(path.parent) == [path.name]
    listener.close()


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
def test_a_path_where_somebody_listens_is_refused_and_left_alone(path: Path, kind: socket.SocketKind) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        other.listen()
        before = path.stat()
        with pytest.raises(ConfigError, match=f"{path}: another agent listens there"):
            Listener.at(path)
        assert path.stat() == before
        assert os.listdir(path.parent) == [path.name]


def test_what_is_no_socket_is_not_replaced(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is no socket, and is not replaced"):
        Listener.at(path)
    assert path.read_text() == "precious"


def test_a_path_that_no_socket_can_have_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="is longer than the 107 bytes"):
        Listener.at(path.with_name("z" * 100))
    with pytest.raises(ConfigError, match=r"/proc/self/zds/z\.sock: the socket can't be made"):
        Listener.at(Path("/proc/self/zds/z.sock"))


def test_it_is_seen_when_the_path_leads_elsewhere(path: Path) -> None:
    listener = Listener.at(path)
    path.rename(path.with_name("away"))
    assert listener.place() is Place.MISSING
    other = Listener.at(path)
    assert listener.place() is Place.TAKEN
    listener.close()
    assert connects(path)
    other.socket.close()
    assert look(path) is Place.STALE


def environment(number: int, pid: int | None = None) -> dict[str, str]:
    """Return what a service manager says that hands over the descriptors up to a number."""
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(number - 2)}


def test_a_socket_that_is_handed_over_is_used_and_its_path_stays(path: Path) -> None:
    first = Listener.at(path)
    number = os.dup(first.socket.fileno())
    first.socket.close()
    assert connects(path)
    second = Listener.inherited(path, environment(number))
    assert second is not None
    assert second.socket.fileno() == number
    assert not os.get_inheritable(number)
    assert second.place() is Place.OURS
    second.close()
    assert path.is_socket()


def test_only_the_right_socket_is_taken_from_those_handed_over(path: Path) -> None:
    other = Listener.at(path.with_name("other.sock"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf, socket.socket(socket.AF_UNIX) as stream:
        path.parent.mkdir(exist_ok=True)
        deaf.bind(str(path))
        given = environment(max(each.fileno() for each in (other.socket, deaf, stream)))
        assert Listener.inherited(path, given) is None
        assert [each.fileno() >= 0 for each in (deaf, stream)] == [True, True]
        assert stream.getsockname() == ""  # still open
    assert Listener.inherited(path, environment(9, pid=1)) is None
    assert Listener.inherited(path, {}) is None
    assert Listener.inherited(path, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}) is None
    other.close()
