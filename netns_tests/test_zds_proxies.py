"""Several proxies at once, and restarts: of the proxy, of the agent, of both; the socket's path, and who has it."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.mesh.connection import Patience
from agent.mesh.listener import Listener
from agent.mesh.status import Acknowledged, Refused
from netns_tests.mesh_proxy_process import HERE, WITH_TEST, Agent, MeshProxy
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.proxy import DNS
from netns_tests.world import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ztunnel.sock"


@pytest.fixture
def pods(stack: ExitStack) -> list[Namespace]:
    return [stack.enter_context(Namespace.create("zds")) for _ in range(3)]


def open_stream(namespace: Namespace) -> socket.socket:
    """Return a connection to the proxy's DNS in a namespace, which holds until either side closes it."""
    client = namespace.socket(socket.AF_INET)
    client.settimeout(slow(5.0))
    client.connect(("127.0.0.1", DNS))
    return client


def process_of(agent: Agent, uid: str) -> int:
    """Return the process that serves a pod; 0: none does."""
    standing = agent.standing(uid)
    return standing.proxy.pid if isinstance(standing, Acknowledged) else 0


def test_new_pods_go_to_the_newest_and_deletes_to_all(path: Path, pods: list[Namespace]) -> None:
    with Agent(path) as agent, MeshProxy(path) as old:
        agent.with_snapshot()
        agent.add("a", pods[0])
        with MeshProxy(path) as new:
            agent.with_snapshot(2)
            assert new.uids("add") == ["a"]
            said = agent.add("b", pods[1])
            assert isinstance(said, Acknowledged)
            assert said.proxy.pid == new.process.pid
            assert old.uids("add") == ["a"]
            released = agent.delete("b")
            old.wait("delete", "b")
            new.wait("delete", "b")
            assert len(getattr(released, "proxies", ())) == 2


def test_until_the_newer_has_its_snapshot_pods_go_to_the_older(path: Path, pods: list[Namespace]) -> None:
    with Agent(path) as agent, MeshProxy(path) as old:
        agent.with_snapshot()
        agent.add("a", pods[0])
        with MeshProxy(path, "--silent=snapshot") as new:
            new.wait("snapshot")
            said = agent.add("b", pods[1])
            assert isinstance(said, Acknowledged)
            assert said.proxy.pid == old.process.pid


def test_a_survivor_is_told_of_all_that_it_missed(path: Path, pods: list[Namespace]) -> None:
    with Agent(path) as agent, MeshProxy(path) as old:
        agent.with_snapshot()
        agent.add("a", pods[0])
        with MeshProxy(path) as new:
            agent.with_snapshot(2)
            agent.add("b", pods[1])
            agent.add("c", pods[2])
            agent.delete("c")
            assert process_of(agent, "b") == new.process.pid
            new.stop(signal.SIGKILL)
            old.wait("add", "b")
        eventually(lambda: process_of(agent, "b") == old.process.pid, "the survivor serves it")
        assert old.uids("add") == ["a", "b"]
        open_stream(pods[1]).close()


def test_an_older_proxy_lets_go_of_a_sandbox_that_was_replaced(path: Path, pods: list[Namespace]) -> None:
    with Agent(path) as agent, MeshProxy(path) as old:
        agent.with_snapshot()
        agent.add("a", pods[0])
        with MeshProxy(path) as new:
            agent.with_snapshot(2)
            agent.add("a", pods[1])
            old.wait("delete", "a")
            assert process_of(agent, "a") == new.process.pid
            assert new.heard("delete") == []


def test_the_newest_s_word_counts(path: Path, pods: list[Namespace]) -> None:
    with Agent(path) as agent, MeshProxy(path):
        agent.with_snapshot()
        agent.add("a", pods[0])
        with MeshProxy(path, "--refuse", "a", "it is full") as new:
            agent.with_snapshot(2)
            said = agent.add("a", pods[0])
            assert isinstance(said, Refused)
            assert (said.proxy.pid, said.words) == (new.process.pid, "failure to start proxy : it is full")
            assert agent.standing("a") == said
        eventually(lambda: isinstance(agent.standing("a"), Acknowledged), "the older's word counts again")


def test_streams_outlive_the_agent(path: Path, pods: list[Namespace]) -> None:
    with MeshProxy(path, "--longest-wait=0.1") as proxy, ExitStack() as streams:
        with Agent(path) as agent:
            agent.with_snapshot()
            for number, pod in enumerate(pods):
                agent.add(str(number), pod)
            opened = [streams.enter_context(open_stream(pod)) for pod in pods]
        proxy.wait("disconnected")
        assert not path.exists()
        streams.enter_context(open_stream(pods[0]))
        with Agent(path, complete=False) as agent:
            proxy.wait("connected", times=2)
            streams.enter_context(open_stream(pods[1]))
            # One is found again, one is not, and one was deleted while the agent was away.
            agent.complete([("0", pods[0]), ("1", None)])
            agent.with_snapshot()
            assert [still_open(each) for each in opened[:2]] == [True, True]
            eventually(lambda: not still_open(opened[2]), "what is gone is let go of")
            assert process_of(agent, "0") == proxy.process.pid


def still_open(stream: socket.socket) -> bool:
    stream.setblocking(False)
    try:
        return bool(stream.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_a_restarted_proxy_gets_everything_again(path: Path, pods: list[Namespace]) -> None:
    with Agent(path) as agent:
        with MeshProxy(path) as first:
            agent.with_snapshot()
            for number, pod in enumerate(pods):
                agent.add(str(number), pod)
            agent.changed.clear()
            assert first.stop() == 0
        agent.eventually(lambda state: not state.proxies, "it is gone")
        assert sorted(agent.changed) == ["0", "1", "2"]  # whoever keeps the pods hears of it
        assert agent.state.acknowledged == 0
        with MeshProxy(path) as second:
            agent.with_snapshot()
            assert agent.state.acknowledged == 3
            assert second.heard("snapshot")[0]["serving"] == 3


def test_a_proxy_that_overlaps_with_its_successor_shares_the_ports(path: Path, pods: list[Namespace]) -> None:
    with Agent(path) as agent, MeshProxy(path, f"--drain={slow(5)}") as old:
        agent.with_snapshot()
        agent.add("a", pods[0])
        with open_stream(pods[0]), MeshProxy(path) as new:
            agent.with_snapshot(2)
            old.process.terminate()
            old.wait("terminated")
            agent.with_snapshot(1)
            open_stream(pods[0]).close()
            assert process_of(agent, "a") == new.process.pid


def agent_process(path: Path, *arguments: str, prefix: tuple[str, ...] = (), **options: int) -> subprocess.Popen[str]:
    argv = [*WITH_TEST, *prefix, sys.executable, "-m", "netns_tests.mesh_proxy_agent", f"--socket={path}", *arguments]
    inherited = tuple(options.values())
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=HERE, pass_fds=inherited)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def test_an_agent_killed_at_any_moment_costs_no_stream(path: Path, pods: list[Namespace]) -> None:
    named = [f"--pod={number}={pod.path}" for number, pod in enumerate(pods)]
    with MeshProxy(path, "--longest-wait=0.05") as proxy, ExitStack() as streams:
        for life in range(4):
            process = agent_process(path, *named)
            streams.callback(end, process)
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            if life != 2:  # there it is killed while it speaks
                assert process.stdout.readline() == "acknowledged\n"
            if life == 0:
                opened = [streams.enter_context(open_stream(pod)) for pod in pods]
            end(process)
            assert path.is_socket()  # what it left is no obstacle to the next
        assert [still_open(each) for each in opened] == [True] * 3
        assert proxy.heard("exit") == []
        assert all(each["how"] == "ack" for each in proxy.events if "how" in each)


def test_a_listening_socket_that_was_handed_over_never_stops_listening(path: Path, pods: list[Namespace]) -> None:
    listener = Listener.at(path)
    number = listener.socket.fileno()
    activated = ("bash", "-c", f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&{number}', "bash")
    with MeshProxy(path) as proxy, ExitStack() as processes:
        proxy.wait("connected")  # nobody accepts yet
        for life in range(2):
            process = agent_process(path, "--inherit", f"--pod=a={pods[0].path}", prefix=activated, listener=number)
            processes.callback(end, process)
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            assert process.stdout.readline() == "acknowledged\n"
            process.terminate()
            process.wait()
            assert path.is_socket()
            proxy.wait("connected", times=life + 2)
    listener.close()
    assert not path.exists()


def test_a_socket_that_is_taken_away_is_put_back(path: Path, pods: list[Namespace]) -> None:
    with Agent(path) as agent:
        path.unlink()
        eventually(path.is_socket, "it is back", slow(10))
        with MeshProxy(path):
            agent.with_snapshot()
            assert isinstance(agent.add("a", pods[0]), Acknowledged)
        assert "somebody took the socket away" in agent.problems


def test_another_agent_is_refused_while_one_listens(path: Path, pods: list[Namespace]) -> None:
    with Agent(path, patience=Patience(pause=0.05)) as agent, MeshProxy(path):
        agent.with_snapshot()
        with pytest.raises(ConfigError, match="another agent listens there"):
            Listener.at(path)
        agent.with_snapshot()
        assert isinstance(agent.add("a", pods[0]), Acknowledged)
        assert agent.state.problems == ()


def test_an_agent_that_takes_the_path_is_reported(path: Path) -> None:
    with Agent(path) as agent, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as rival:
        taken = path.with_name("rival")
        rival.bind(str(taken))
        rival.listen()
        taken.rename(path)
        agent.eventually(lambda state: "another agent has taken the path" in state.socket, "it is said")
        rival.close()
        agent.stop()
    assert path.is_socket()  # not ours to remove
    assert os.listdir(path.parent) == [path.name]
