"""``./dev bench [apply|noop|startup]``: each compares with a peer in the same run; all when none is named."""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.reconcile import reconcile
from agent.state import Records
from agent.targets import Absent, Captured, Target
from bench.sampling import MOST_NOISE, Result, interleaved, table, timed
from netns_tests.world import Namespace
from rulesets import nft, pod
from rulesets.capture import Capture, ProxyAbsent
from rulesets.diff import diff

CAPTURE = Capture(when_proxy_absent=ProxyAbsent.CAPTURE)
RULES = pod.build(CAPTURE)


def startup(rounds: int) -> tuple[tuple[Result, ...], str]:
    """Time from exec to exit of the command, against an empty Python program."""
    weir = str(Path(sys.executable).with_name("weir"))

    def run(*argv: str) -> Callable[[], float]:
        return lambda: timed(lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL))

    peer = "python -c pass"
    variants = {
        peer: run(sys.executable, "-c", "pass"),
        f"{peer} (again)": run(sys.executable, "-c", "pass"),
        "weir --help": run(weir, "--help"),
        "weir render --set dns=false": run(weir, "render", "--set", "dns=false"),
    }
    return interleaved(variants, rounds), peer


def apply(rounds: int) -> tuple[tuple[Result, ...], str]:
    """The default dual-stack table into a fresh namespace, against one forked ``nft -f -``."""
    text = nft.render(RULES).encode()

    def in_fresh_namespace(write: Callable[[Namespace], float]) -> Callable[[], float]:
        def sample() -> float:
            with Namespace.create("bench") as namespace:
                return write(namespace)

        return sample

    def by_weir(namespace: Namespace) -> float:
        handle = Handle(Netns(namespace.name))
        try:
            return timed(lambda: handle.apply(diff(None, RULES)))
        finally:
            handle.close()

    def by_fork(namespace: Namespace) -> float:
        argv = ["ip", "netns", "exec", namespace.name, "nft", "-f", "-"]
        return timed(lambda: subprocess.run(argv, input=text, check=True))

    peer = "one forked nft -f -"
    variants = {
        peer: in_fresh_namespace(by_fork),
        f"{peer} (again)": in_fresh_namespace(by_fork),
        "weir, in the process": in_fresh_namespace(by_weir),
    }
    return interleaved(variants, rounds), peer


def noop(rounds: int) -> tuple[tuple[Result, ...], str]:
    """A whole pass over a namespace that is as wanted, against one forked ``nft -j list table``."""
    with (
        Namespace.create("bench") as namespace,
        tempfile.TemporaryDirectory() as directory,
        ThreadPoolExecutor(1) as worker,
    ):
        handle, records = Handle(Netns(namespace.name)), Records(Path(directory))
        target = Target(name="bench", netns=namespace.name, wish=Captured(capture=CAPTURE))
        worker.submit(reconcile, target, handle, records).result()
        argv = ["ip", "netns", "exec", namespace.name, "nft", "-j", "list", "table", "inet", pod.POD_TABLE]

        def forked() -> float:
            return timed(lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL))

        peer = "one forked nft -j list table"
        variants: dict[str, Callable[[], float]] = {
            peer: forked,
            f"{peer} (again)": forked,
            "weir, rules, routes and listeners": lambda: worker.submit(
                lambda: timed(lambda: reconcile(target, handle, records))
            ).result(),
            "weir, generation only": lambda: timed(handle.generation),
        }
        results = interleaved(variants, rounds)
        worker.submit(reconcile, Target(name="bench", netns=namespace.name, wish=Absent()), handle, records).result()
        handle.close()
        return results, peer


BENCHES: dict[str, Callable[[int], tuple[tuple[Result, ...], str]]] = {"apply": apply, "noop": noop, "startup": startup}


def main() -> int:
    """Run the benches named on the command line; return 1 when the machine was too noisy to say anything."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("bench", nargs="*", choices=[[], *BENCHES], help="which; all by default")
    parser.add_argument("--rounds", type=int, default=30, help="samples of each variant")
    asked = parser.parse_args()
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    void = False
    for name in asked.bench or BENCHES:
        results, peer = BENCHES[name](asked.rounds)
        print(f"\n{name}: {BENCHES[name].__doc__}\n{table(results, peer)}")
        first, again = (next(each.median for each in results if each.name == n) for n in (peer, f"{peer} (again)"))
        noise = abs(again / first - 1)
        if noise > MOST_NOISE:
            void = True
            print(f"void: two runs of the same peer differ by {noise:.0%}")
    return void


if __name__ == "__main__":
    sys.exit(main())
