"""``encode``: a ruleset becomes the bytes of a batch."""

import sys
from collections.abc import Iterator, Mapping

from bench.report import Goal, Report, again
from bench.sampling import interleaved, timed
from bench.weir import FRESH
from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.diff import Plan, diff
from rulesets.model import Ruleset
from rulesets.netlink import OWNED, encode

ROUNDS = 400
ABOUT = "a default pod's ruleset that was not seen before, as the bytes of a batch"

WEIR, LIKE, SEEN, TEXT = "Weir", "Weir, a like one was seen", "Weir, this one was seen", "as text for nft"
_FIRST_PORT = 20000


def run(rounds: int) -> Report:
    """Take the samples: every ruleset is another one."""
    fresh = rulesets()

    def weir(name: str) -> Mapping[str, float]:
        plan = diff(None, next(fresh))
        forget()
        return {name: timed(lambda: _encoded(plan))[0]}

    def like() -> Mapping[str, float]:
        plan = diff(None, next(fresh))
        _encoded(diff(None, next(fresh)))
        return {LIKE: timed(lambda: _encoded(plan))[0]}

    def seen() -> Mapping[str, float]:
        _encoded(FRESH)
        return {SEEN: timed(lambda: _encoded(FRESH))[0]}

    def text() -> Mapping[str, float]:
        ruleset = next(fresh)
        return {TEXT: timed(lambda: nft.render(ruleset))[0]}

    found = interleaved([lambda: weir(WEIR), lambda: weir(again(WEIR)), like, seen, text], rounds)
    return Report(
        bench="encode",
        about=ABOUT,
        subject=WEIR,
        results=tuple(found.values()),
        goals=(Goal(what="encoding", found=found[WEIR].p50 * 1e3, wanted=1, unit="ms"),),
        twins=((WEIR, again(WEIR)),),
        parts=frozenset({LIKE, SEEN}),
    )


def rulesets() -> Iterator[Ruleset]:
    """Yield rulesets of like captures, each with another port."""
    for number in range(_FIRST_PORT, 2**16):
        yield pod.build(Capture.parse({"outbound_port": number}))


def forget() -> None:
    """Empty every cache of the encoder: the next ruleset is the first one."""
    for name, module in sys.modules.items():
        if name.startswith("rulesets.netlink"):
            for each in vars(module).values():
                if hasattr(each, "cache_clear"):
                    each.cache_clear()


def _encoded(plan: Plan) -> bytes:
    return encode(plan, flags=OWNED).data
