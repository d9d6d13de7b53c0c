"""The proxy comes and goes under a running daemon, without any event that would say so."""

import json
from pathlib import Path

from netns_tests.clients import exchange
from netns_tests.daemon import Daemon, is_clean, listening, rules, targets
from netns_tests.namespace import Namespace
from netns_tests.proxy_process import ProxyProcess
from netns_tests.servers import EchoServer
from netns_tests.world import World

SOON = 5.0  # seconds; two are the rule


def test_waiting_ends_when_the_proxy_listens_and_rules_outlive_it(tmp_path: Path, world: World) -> None:
    pod = world.pods[0]
    with EchoServer(world.outside) as server, Daemon(tmp_path, targets([pod], "")) as daemon:
        outside = (world.outside.v4, server.port)
        daemon.start()
        assert daemon.state("t0") == "waiting"
        assert "15001" in daemon.target("t0")["reason"]
        assert is_clean(pod)
        assert exchange(pod, outside).direct
        with ProxyProcess(pod) as proxy:
            daemon.eventually(lambda: daemon.state("t0") in ("applied", "unchanged"), "it is captured", SOON)
            assert not exchange(pod, outside).direct
            before = rules(pod)
            proxy.process.kill()
            proxy.process.wait()
            (seen,) = json.loads(daemon.weir("status", "t0", "--output", "json").out)["targets"]
            assert (seen["state"], seen["captured"]) == ("degraded", False)
            assert "15001" in seen["reason"]
        assert rules(pod) == before
        daemon.eventually(lambda: daemon.state("t0") == "degraded", "the daemon sees it by itself", 2 * SOON)
        assert daemon.metrics()["weir_target_captured", ("t0",)] == 0
        with ProxyProcess(pod):
            daemon.eventually(lambda: daemon.state("t0") == "unchanged", "and that it is back", 2 * SOON)
            assert not exchange(pod, outside).direct
            assert daemon.weir("verify", "t0").code == 0
        assert rules(pod) == before


def test_many_that_wait_are_captured_when_it_is_time(tmp_path: Path) -> None:
    with Namespace.create("one") as one, Namespace.create("two") as two:
        pods = [one, two]
        with Daemon(tmp_path, targets(pods, "dns = false")) as daemon:
            daemon.start()
            opened = listening(one, 15001)
            lacking = "nothing listens on tcp port 15006 (inbound_port)"
            daemon.eventually(lambda: daemon.target("t0")["reason"] == lacking, "one port is not enough", SOON)
            assert is_clean(one)
            opened += listening(one, 15006)
            daemon.eventually(lambda: daemon.state("t0") == "unchanged", "both answer", SOON)
            assert daemon.state("t1") == "waiting"
            assert is_clean(two)
            for each in opened:
                each.close()
