"""``cni``: what a pod's start waits for, and what the agent of a node with 500 pods takes."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from bench.memory import resident
from bench.report import Goal, Report, again
from bench.sampling import Result, Variant, interleaved
from netns_tests.node.stage import Node, Pod, bridge
from tests.cni import AMBIENT
from tests.packages import ROOT

ROUNDS = 100
PODS = 500
AT_ONCE, BURSTS = 100, 3
RESTARTS, IDLE = 5, 20.0  # seconds
_PATIENCE, _REST, _STILL = 120.0, 1.0, 65536  # seconds, seconds, bytes
_LOOKED_AT = 10  # pods whose tables must be the same after a restart, down to the handles of their rules

ADD, OUTSIDE, PEER = "ADD, captured", "ADD, pod not ambient", "bridge and host-local alone"
FLOOR = "a Go program that does nothing"
BURST, FLOORS = f"{AT_ONCE} ADDs at once, each", f"{AT_ONCE} Go programs that do nothing, each"
RESTART = "restart, exec to whole snapshot"


class Proxy:
    """The listeners of `netns_tests.node.listeners` as a process. Use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        """Take the socket on which the agent speaks ZDS."""
        self._argv = [sys.executable, "-m", "netns_tests.node.listeners", str(path)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def snapshot(self) -> dict[str, Any]:
        """Wait for the next whole snapshot; return how many pods it has, and when it came."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "snapshot":
                return dict(event)
        raise AssertionError("the proxy has ended: see above")


def run(rounds: int, pods: int = PODS, at_once: int = AT_ONCE, restarts: int = RESTARTS, idle: float = IDLE) -> Report:
    """Take the samples, on one node that fills up."""
    with ExitStack() as stack:
        node = stack.enter_context(Node())
        node.label(AMBIENT)
        node.agent.start()
        proxy = stack.enter_context(Proxy(node.agent.zds))
        proxy.snapshot()
        idler = {"type": "idle", "program": str(_idler())}
        found = _alone(node, rounds, idler)
        bursts, floors = list[float](), list[float]()
        for _ in range(BURSTS):
            pods_at_once = _burst(node, at_once)
            floors += _each(node, pods_at_once, idler)
            bursts += _seconds(node, pods_at_once)
        while len(node.pods) < pods:
            _seconds(node, _burst(node, min(at_once, pods - len(node.pods))))
        for name in list(node.pods)[pods:]:
            node.api.delete("pods", "shop", name)
        node.wait_for("captured", *(each for each in list(node.pods)[:pods] if not each.startswith("outside")))
        memory = _memory(node)
        resting = _idle(node, idle)
        samples, kept = _restarts(node, proxy, restarts)
    found |= {
        BURST: Result(name=BURST, samples=tuple(bursts)),
        FLOORS: Result(name=FLOORS, samples=tuple(floors)),
        RESTART: Result(name=RESTART, samples=tuple(samples)),
    }
    return Report(
        bench="cni",
        about=f"what a starting pod waits for, and a node with {pods} pods",
        subject=ADD,
        results=tuple(found.values()),
        goals=(
            Goal(what="ADD of a captured pod, p50", found=found[ADD].p50 * 1e3, wanted=5, unit="ms"),
            Goal(what="the same, p95", found=found[ADD].p95 * 1e3, wanted=12, unit="ms"),
            Goal(what=f"{at_once} at once, p99", found=_percentile(bursts, 99) * 1e3, wanted=100, unit="ms"),
            Goal(what="restart until the snapshot is whole", found=found[RESTART].p50 * 1e3, wanted=1000, unit="ms"),
            Goal(what="pods whose tables a restart left alone", found=kept, wanted=1, at_least=True),
            Goal(what="resident memory of the agent", found=memory / 1024**2, wanted=75, unit="MB"),
            Goal(what="idle, of a core", found=resting * 100, wanted=0.5, unit="%"),
        ),
        twins=((ADD, again(ADD)),),
        parts=frozenset((BURST, FLOORS, RESTART)),
        notes=(
            f"{FLOORS}, with the processors to themselves: p99 {_percentile(floors, 99) * 1e3:.3g} ms",
            "ADD: from the start of the plugin to its end, with the proxy's acknowledgement; the API stands in memory",
            f"Istio's agent with native nftables, elsewhere: ADD 101 ms, restart with {PODS} pods 37 s, 75 MB",
        ),
    )


def _idler() -> Path:
    """Return a Go program that does nothing, built as ./dev builds the plugin."""
    made, source = ROOT / "build/idle", ROOT / "build/idle.go"
    source.write_text("package main\n\nfunc main() {}\n")
    go = shutil.which("go") or "/usr/local/go/bin/go"
    options = ["-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(made)]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    subprocess.run([go, "build", *options, str(source)], env=environment, check=True)
    return made


def _alone(node: Node, rounds: int, idler: Mapping[str, Any]) -> dict[str, Result]:
    """Return the samples of pods that start one at a time."""
    numbers = iter(range(10**6))

    def weirs(name: str, labels: Mapping[str, str]) -> Variant:
        def sample() -> Mapping[str, float]:
            (pod,) = _made(node, [f"{'outside' if labels else 'web'}-{next(numbers)}"], labels)
            return {name: _seconds(node, [pod])[0]}

        return sample

    def floor() -> Mapping[str, float]:
        # Just after a pod was made, as a plugin is started: this one is of no use, and never starts.
        (pod,) = node.create(name := f"idle-{next(numbers)}")
        (seconds,) = _each(node, [pod], idler)
        node.api.delete("pods", "shop", name)
        del node.pods[name]
        return {FLOOR: seconds}

    def peer() -> Mapping[str, float]:
        (pod,) = node.create(name := f"bridged-{next(numbers)}")
        ((done,),) = node.add([pod], bridge())
        node.add([pod], bridge(), command="DEL")
        node.api.delete("pods", "shop", name)
        del node.pods[name]
        return {PEER: done["seconds"]}

    none = {"istio.io/dataplane-mode": "none"}
    return interleaved([weirs(ADD, {}), weirs(again(ADD), {}), weirs(OUTSIDE, none), floor, peer], rounds)


def _burst(node: Node, count: int) -> list[Pod]:
    first = len(node.pods)
    return _made(node, [f"burst-{first + number}" for number in range(count)], {})


def _made(node: Node, names: Sequence[str], labels: Mapping[str, str]) -> list[Pod]:
    """Make pods with an interface each, as a primary network would have."""

    def lines(number: int) -> Sequence[str]:
        v4, v6 = _addresses(number)
        up = ("link add eth0 type veth peer name there", "link set eth0 up")
        return (*up, f"addr add {v4}/32 dev eth0", f"addr add {v6}/128 dev eth0 nodad")

    pods = node.create(*names, lines=lines, labels=labels)
    for pod in pods:
        ips = [{"address": f"{each}/{'128' if ':' in each else '32'}"} for each in _addresses(pod.number)]
        pod.result = {"cniVersion": "1.0.0", "interfaces": [], "ips": ips, "dns": {}}
    return pods


def _addresses(number: int) -> tuple[str, str]:
    return f"10.78.{number // 250}.{number % 250 + 1}", f"fd78::{number + 1:x}"


def _seconds(node: Node, pods: Sequence[Pod]) -> list[float]:
    """Return what the plugin took for each of these pods, all started at once."""
    seconds = _each(node, pods, node.plugin())
    node.running(*pods)
    return seconds


def _each(node: Node, pods: Sequence[Pod], plugin: Mapping[str, Any]) -> list[float]:
    answers = [done for (done,) in node.add(pods, plugin)]
    for each in answers:
        assert each["code"] == 0, f"{each['out']}{each['err']}\n{node.agent.log[-2000:]}"
    return [float(each["seconds"]) for each in answers]


def _memory(node: Node) -> float:
    """Return the agent's resident memory once it is at rest, in bytes."""
    smaps = Path(f"/proc/{node.agent.pid}/smaps_rollup")
    before = resident(smaps.read_text())["RSS"]
    while True:
        time.sleep(_REST)
        now = resident(smaps.read_text())["RSS"]
        if abs(now - before) < _STILL:
            return now
        before = now


def _idle(node: Node, seconds: float) -> float:
    """Return the share of a core that the agent takes when nothing happens."""
    before = node.agent.cpu()
    time.sleep(seconds)
    return (node.agent.cpu() - before) / seconds


def _restarts(node: Node, proxy: Proxy, count: int) -> tuple[list[float], float]:
    """Return the seconds of each restart, and the share of pods that still have the very same table."""
    captured = [each for name, each in node.pods.items() if node.agent.steps().get(name) == "captured"]
    some = captured[:: max(1, len(captured) // _LOOKED_AT)]
    before = [_table(each) for each in some]
    seconds = []
    for _ in range(count):
        node.agent.end()
        began = time.monotonic()
        node.agent.start(ready=False)
        found = proxy.snapshot()
        seconds.append(found["at"] - began)
        assert found["serving"] == len(captured), f"{found['serving']} of {len(captured)} pods in the snapshot"
        node.wait_for("captured", *(each.pod for each in captured))
        time.sleep(_REST)
    return seconds, sum(_table(each) == one for each, one in zip(some, before, strict=True)) / len(some)


def _table(pod: Pod) -> str:
    """Return a pod's chains and rules with their handles: those of rules that were written again are others."""
    listed = pod.command("nft", "-a", "-s", "list", "table", "inet", "weir-pod")
    return "\n".join(line for line in listed.splitlines() if "# handle" in line and "table" not in line)


def _percentile(samples: Sequence[float], percent: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * percent / 100))]
