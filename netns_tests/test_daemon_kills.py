"""A hundred namespaces, a daemon that is killed again and again, and namespaces that go meanwhile."""

import json
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from netns_tests.daemon import CAPTURE, PROXY, Daemon, links, listening, rules, targets, tie, vanish
from netns_tests.namespace import Namespace
from netns_tests.world import eventually

PODS, KILLS, DELETED = 100, 50, 10


@pytest.mark.timeout(300)
def test_every_namespace_ends_right_after_fifty_kills(tmp_path: Path) -> None:
    chance = random.Random(4)
    with ExitStack() as stack:
        peer = stack.enter_context(Namespace.create("peer"))
        pods = [stack.enter_context(Namespace.create("pod")) for _ in range(PODS)]
        tie(peer, pods)
        proxies = {pod.name: listening(pod, *PROXY) for pod in pods}
        for opened in proxies.values():
            for each in opened:
                stack.callback(each.close)
        # Another wish at each start, so that there is always much to write.
        files = [targets(pods, f"{CAPTURE}\nexclude_outbound_ports = [{port}]") for port in (1111, 2222)]
        daemon = stack.enter_context(Daemon(tmp_path, files[0]))
        doomed = chance.sample(pods, DELETED)
        caught = 0  # kills that came while not every target had its new rules
        for kill in range(KILLS):
            daemon.rewrite(files[kill % 2])
            daemon.start(ready=False)
            daemon.eventually(daemon.client.is_there, "the daemon listens")
            time.sleep(chance.uniform(0, 0.6))
            if kill % 5 == 2:
                gone = doomed[kill // 5]
                vanish(gone)
                for each in proxies.pop(gone.name):
                    each.close()
            caught += daemon.get("/readyz")[0] == 503
            daemon.end(signal.SIGKILL)
        assert caught >= KILLS // 4
        left = [pod for pod in pods if pod not in doomed]
        daemon.rewrite(files[0])
        daemon.start()
        names = [f"t{number}" for number, pod in enumerate(pods) if pod in left]
        daemon.eventually(lambda: all(daemon.state(name) == "unchanged" for name in names), "all are captured")
        verified = daemon.weir("verify", *names)
        assert verified.code == 0, verified.out
        assert all("1111" in rules(pod) and "2222" not in rules(pod) for pod in left)
        assert daemon.state(f"t{pods.index(doomed[0])}") == "waiting"
        eventually(lambda: len(links(peer)) == len(left), "the deleted namespaces are really gone", 10)
        assert not [each for each in daemon.descriptors() if any(pod.name in each for pod in doomed)]
        # Nothing half-written is left either.
        assert not list(daemon.directory.glob("**/*.tmp"))
        records = [json.loads(each.read_text()) for each in (daemon.directory / "namespaces").glob("*.json")]
        assert {each["netns"] for each in records} == {pod.name for pod in left}
        assert all(each["settled"] for each in records)


def test_stopping_a_hundred_is_quick_and_leaves_them_as_they_are(tmp_path: Path) -> None:
    with ExitStack() as stack:
        pods = [stack.enter_context(Namespace.create("pod")) for _ in range(PODS)]
        daemon = stack.enter_context(Daemon(tmp_path, targets(pods))).start()
        before = [rules(pod) for pod in pods[::10]]
        assert all("weir-pod" in each for each in before)
        began = time.monotonic()
        assert daemon.end() == 0
        assert time.monotonic() - began < 5
        assert [rules(pod) for pod in pods[::10]] == before
