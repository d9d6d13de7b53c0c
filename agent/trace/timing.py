"""How long packets are in Weir's chains: what is measured, and what the figures come to."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate

from agent.errors import TargetError
from agent.kernel import legacy
from agent.kernel.bpf.brackets import Brackets, Figures, Wanted
from agent.kernel.bpf.programs import least
from agent.kernel.handle import Handle
from agent.kernel.tablequery import BaseChain, TableName
from rulesets.host import HOST_TABLE
from rulesets.pod import POD_TABLE
from rulesets.vocabulary import Family

_OURS = tuple(TableName(family="inet", name=name) for name in (POD_TABLE, HOST_TABLE))
_FAMILIES = ("inet", "ip", "ip6")
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")  # enum nf_inet_hooks
# The kernel asks all nat chains of a hook together, whatever their own priorities: NF_IP_PRI_NAT_DST, _SRC.
_NAT = {0: -100, 1: 100, 3: -100, 4: 100}
# Where the tables of iptables-legacy stand, include/uapi/linux/netfilter_ipv4.h.
_LEGACY = {
    "raw": (-300, (0, 3)),
    "mangle": (-150, (0, 1, 2, 3, 4)),
    "filter": (0, (1, 2, 3)),
    "security": (50, (1, 2, 3)),
}
_PROGRAMS = {Family.IPV4: "iptables-legacy", Family.IPV6: "ip6tables-legacy"}
_BEFORE = 8  # priorities between the first chain of a hook and the bracket around nothing
_AGAIN = 1.0  # seconds between looks at whether the namespace is still there


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Nanoseconds that a packet takes: the mean, the median, and what 99 of 100 stay within."""

    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One of Weir's chains. `priority` is the one at which the kernel calls it.

    `packets` have passed it, and took `times` each (None where none has) and `nanoseconds` together, without what the
    measuring itself takes; `stopped` came in and not out: dropped, or on their way at the end. `unmeasured` were not
    looked at for want of room. `beside` is what else was measured with it, since nothing fits in between.
    """

    chain: str
    hook: str
    priority: int
    packets: int
    stopped: int
    unmeasured: int
    nanoseconds: float
    times: Times | None
    beside: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What it came to. `empty` is what a bracket around nothing took, by hook: it is taken off; None: no packet came.

    `changed`: somebody changed rules of the namespace meanwhile, so it may be a mixture.
    """

    chains: tuple[Timed, ...]
    empty: dict[str, Times | None]
    seconds: float
    changed: bool

    @property
    def nanoseconds(self) -> float:
        """How long packets were in all of the chains together."""
        return sum(each.nanoseconds for each in self.chains)

    def share(self, chain: Timed) -> float | None:
        """Return which part of that was in one chain; None where it is nothing."""
        return chain.nanoseconds / self.nanoseconds if self.nanoseconds else None

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {
            "chains": [{**asdict(each), "share": self.share(each)} for each in self.chains],
            "empty": {hook: None if each is None else asdict(each) for hook, each in self.empty.items()},
            "seconds": self.seconds,
            "changed": self.changed,
        }


def measure(handle: Handle, seconds: float, *, ready: Callable[[], None], stop: threading.Event) -> Timing:
    """Measure every packet for so long; `ready` is called once that has begun. Nothing is left behind.

    Raises `FeatureMissing`, `PermissionMissing`, `KernelError`, `NamespaceMissing` where the namespace goes away
    meanwhile, and `TargetError` where no chain of Weir's is there.
    """
    generation = handle.generation()
    chains = handle.base_chains()
    ours = [each for each in chains if each.table in _OURS and each.hook < len(_HOOKS)]  # behind them: ingress
    if not ours:
        raise TargetError("no chain of Weir's is in its namespace", hint="`weir status` tells how the target stands")
    ours.sort(key=lambda each: (each.hook, _called_at(each)))
    wanted = [Wanted(hook=each.hook, priority=_called_at(each)) for each in ours]
    hooks = sorted({each.hook for each in ours})
    first = {hook: min(each.priority for each in wanted if each.hook == hook) for hook in hooks}
    wanted += [Wanted(hook=hook, priority=first[hook] - _BEFORE, empty=True) for hook in hooks]
    with handle.inside():
        others = [*_chains_of_others(chains), *_tables_of_legacy()]
        brackets = Brackets(wanted)
    with brackets:
        brackets.start()
        started = time.monotonic()
        ready()
        while (left := started + seconds - time.monotonic()) > 0 and not stop.wait(min(left, _AGAIN)):
            handle.netns.check()
        took = time.monotonic() - started
        brackets.stop()
        figures = brackets.figures()
    empty = {hook: _times(each) for hook, each in zip(hooks, figures[len(ours) :], strict=True)}
    return Timing(
        chains=tuple(
            _timed(each, found, empty[each.hook], _beside(each, span, others))
            for each, found, span in zip(ours, figures, brackets.spans, strict=False)
        ),
        empty={_HOOKS[hook]: each for hook, each in empty.items()},
        seconds=took,
        changed=handle.generation() != generation,
    )


def _called_at(chain: BaseChain) -> int:
    return _NAT.get(chain.hook, chain.priority) if chain.type == "nat" else chain.priority


@dataclass(frozen=True, slots=True, kw_only=True)
class _Other:
    """Something of somebody else's that the kernel calls."""

    name: str
    hook: int
    priority: int


def _chains_of_others(chains: Iterable[BaseChain]) -> Iterable[_Other]:
    for each in chains:
        if each.table not in _OURS and each.table.family in _FAMILIES:
            yield _Other(name=f"{each.table} {each.name}", hook=each.hook, priority=_called_at(each))


def _tables_of_legacy() -> Iterable[_Other]:
    for family, program in _PROGRAMS.items():
        for table in sorted(legacy.tables(family) or ()):
            places = list(_NAT.items()) if table == "nat" else []
            priority, hooks = _LEGACY.get(table, (0, ()))
            places += [(hook, priority) for hook in hooks]
            yield from (_Other(name=f"{program} {table}", hook=hook, priority=where) for hook, where in places)


def _beside(chain: BaseChain, span: tuple[int, int], others: Iterable[_Other]) -> tuple[str, ...]:
    """Return by name what else stands between two priorities, neither included; by priority what has no name."""
    within = [each for each in others if each.hook == chain.hook and span[0] < each.priority < span[1]]
    known = {_called_at(chain), *(each.priority for each in within)}
    unknown = (each for each in range(span[0] + 1, span[1]) if each not in known)
    nameless = (f"something else at priority {each} (a BPF program, or the kernel's own)" for each in unknown)
    return (*dict.fromkeys(each.name for each in within), *nameless)


def _timed(chain: BaseChain, figures: Figures, empty: Times | None, beside: tuple[str, ...]) -> Timed:
    own = empty or Times(mean=0.0, p50=0.0, p99=0.0)
    raw = _times(figures)
    return Timed(
        chain=f"{chain.table} {chain.name}",
        hook=_HOOKS[chain.hook],
        priority=_called_at(chain),
        packets=figures.packets,
        stopped=max(0, figures.entered - figures.unnoted - figures.packets),
        unmeasured=figures.unnoted,
        nanoseconds=max(0.0, figures.nanoseconds - figures.packets * own.mean),
        times=raw
        and Times(mean=max(0.0, raw.mean - own.mean), p50=max(0.0, raw.p50 - own.p50), p99=max(0.0, raw.p99 - own.p50)),
        beside=beside,
    )


def _times(figures: Figures) -> Times | None:
    if not figures.packets:
        return None
    return Times(
        mean=figures.nanoseconds / figures.packets,
        p50=_within(figures.times, 0.50),
        p99=_within(figures.times, 0.99),
    )


def _within(times: Sequence[int], part: float) -> float:
    """Return the middle of the bucket that holds the packet behind which only the rest take longer."""
    wanted = part * sum(times)
    bucket = next(number for number, count in enumerate(accumulate(times)) if count >= wanted)
    return (least(bucket) + least(bucket + 1) - 1) / 2
