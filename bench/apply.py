"""``apply``: rules for a pod that starts, and waits for them."""

from collections.abc import Mapping

from agent.kernel import routing
from bench import peers, recorded
from bench.floor import Floor, whole
from bench.peers import Peer
from bench.places import Supply
from bench.report import Goal, Report, again
from bench.sampling import Variant, cold, interleaved, timed
from bench.weir import FRESH, ROUTES, RULES, Worker, encoded, end_acknowledged, opened, routing_messages
from rulesets import nft

ROUNDS, TURN = 30, 8
ABOUT = "the default dual-stack pod into a fresh namespace, from Ruleset to acknowledged"

WEIR, FLOOR = "Weir", "floor: C, same bytes"
KERNEL, KERNEL_REFERENCE = "kernel alone, Weir's rules", "kernel alone, Istio's 24 rules"
ROUTING, ROUTING_FLOOR = "Weir's 4 routing messages", "floor: C, 4 routing messages"
IN_PROCESS, ONE_FORK = "libnftables in the process", "one fork: nft -f -"
THREE_FORKS, IPTABLES = "three forks: Istio with nft", "iptables-restore, both families"


def run(rounds: int) -> Report:
    """Take the samples."""
    end = end_acknowledged()
    batches = encoded(FRESH, end=end), recorded.batch(peers.ISTIO.decode(), end_acknowledged=end)
    text = nft.render(RULES)
    with (
        Supply.opened() as supply,
        Worker.started() as worker,
        Floor.started(batches, routing_messages()) as floor,
    ):
        variants = [
            _weir(WEIR, supply, worker),
            _weir(again(WEIR), supply, worker),
            _floor(FLOOR, supply, floor),
            _floor(again(FLOOR), supply, floor),
            _peer(IN_PROCESS, supply, peers.libnftables(text)),
            _peer(ONE_FORK, supply, peers.nft(text)),
            _peer(IPTABLES, supply, peers.iptables()),
            _peer(THREE_FORKS, supply, peers.forks(peers.THREE_FORKS)),
            lambda: {KERNEL: floor.fresh(supply.next().path, 0)["send"]},
            lambda: {KERNEL_REFERENCE: floor.fresh(supply.next().path, 1)["send"]},
            _routing(supply, worker),
            lambda: {ROUTING_FLOOR: floor.fresh(supply.next().path, 0)["routing"]},
        ]
        needed = TURN * len(variants)
        found = interleaved(variants, rounds, turn=TURN, before=lambda: supply.ensure(needed, needed * min(rounds, 8)))
    p50 = {name: each.p50 for name, each in found.items()}
    weir, kernel = p50[WEIR], p50[KERNEL] / p50[KERNEL_REFERENCE]
    whole_ones = {WEIR, FLOOR, IN_PROCESS, ONE_FORK, THREE_FORKS, IPTABLES}
    left_out = {cold(name) for name in found} - {cold(WEIR), cold(FLOOR)}
    left_out |= {name for name in found if name.startswith((f"{again(WEIR)}:", f"{again(FLOOR)}:"))}
    return Report(
        bench="apply",
        about=ABOUT,
        subject=WEIR,
        results=tuple(each for name, each in found.items() if name not in left_out),
        goals=(
            Goal(what="Weir against the floor", found=weir / p50[FLOOR], wanted=1.3),
            Goal(what="Weir against three forks", found=weir / p50[THREE_FORKS], wanted=1 / 40),
            Goal(what="Weir against one fork", found=weir / p50[ONE_FORK], wanted=1 / 8),
            Goal(what="Weir against libnftables", found=weir / p50[IN_PROCESS], wanted=1 / 1.8),
            Goal(what="the kernel's own time, Weir's / Istio's", found=kernel, wanted=0.75),
            Goal(what="all four routing messages", found=p50[ROUTING] * 1e3, wanted=0.3, unit="ms"),
        ),
        twins=((WEIR, again(WEIR)), (FLOOR, again(FLOOR))),
        parts=frozenset(found) - whole_ones - {again(WEIR), again(FLOOR)},
    )


def _weir(name: str, supply: Supply, worker: Worker) -> Variant:
    def sample() -> Mapping[str, float]:
        namespace = supply.next()

        def work() -> tuple[float, float]:
            opening, handle = timed(lambda: opened(namespace))
            applying, _ = timed(lambda: handle.apply(FRESH))
            handle.close()
            return opening, applying

        opening, applying = worker.run(work)
        return {name: opening + applying, f"{name}: opening": opening, f"{name}: applying": applying}

    return sample


def _floor(name: str, supply: Supply, floor: Floor) -> Variant:
    def sample() -> Mapping[str, float]:
        parts = floor.fresh(supply.next().path, 0)
        del parts["routing"]
        return {name: whole(parts)} | {f"{name}: {part}": seconds for part, seconds in parts.items()}

    return sample


def _peer(name: str, supply: Supply, peer: Peer) -> Variant:
    return lambda: {name: peer(supply.next())}


def _routing(supply: Supply, worker: Worker) -> Variant:
    def sample() -> Mapping[str, float]:
        handle = opened(supply.next())

        def work() -> float:
            with handle.inside():
                return timed(lambda: routing.apply(ROUTES))[0]

        seconds = worker.run(work)
        handle.close()
        return {ROUTING: seconds}

    return sample
