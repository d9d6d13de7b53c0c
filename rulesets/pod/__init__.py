"""The table inside a pod, or of a plain host's own traffic: one function per reason, in the order of the rules.

Four base chains, no jumps. Each hook stands one before the usual priority, so that whoever loads a chain later still
comes after. The order of the rules is the meaning: an earlier one wins, so exclusion beats inclusion and DNS comes
before both. Everything below knows the proxy by its mark alone. The intent of every rule is its slug.
"""

import dataclasses
from collections.abc import Iterator
from functools import lru_cache

from rulesets.capture import Capture
from rulesets.model import Chain, Ruleset, with_counters
from rulesets.pod import inbound, outbound, proxy, sampling, selection
from rulesets.pod.shared import Reason, Stage
from rulesets.vocabulary import ChainType, Hook

__all__ = ["MANGLE_OUT", "NAT_OUT", "NAT_PRE", "POD_TABLE", "RAW_OUT", "REASONS", "Stage", "build"]

POD_TABLE = "weir-pod"

RAW_OUT = Chain(name="raw-out", type=ChainType.FILTER, hook=Hook.OUTPUT, priority=-300)
MANGLE_OUT = Chain(name="mangle-out", type=ChainType.ROUTE, hook=Hook.OUTPUT, priority=-150)
NAT_PRE = Chain(name="nat-pre", type=ChainType.NAT, hook=Hook.PREROUTING, priority=-101)
NAT_OUT = Chain(name="nat-out", type=ChainType.NAT, hook=Hook.OUTPUT, priority=-101)

# The whole table at a glance: where, and in which order.
REASONS: dict[Chain, tuple[Reason, ...]] = {
    RAW_OUT: (proxy.by_user, proxy.by_cgroup, proxy.dns_zone),
    MANGLE_OUT: (proxy.reply_to_proxy, proxy.to_app),
    NAT_PRE: (
        sampling.arriving,
        inbound.virtual_interfaces,
        inbound.not_local,
        inbound.excluded_interfaces,
        inbound.not_tcp,
        inbound.not_new,
        inbound.from_proxy,
        inbound.probes,
        inbound.loopback,
        inbound.hbone,
        inbound.not_selected,
        inbound.everything_else,
    ),
    NAT_OUT: (
        sampling.leaving,
        outbound.from_proxy,
        outbound.excluded_interfaces,
        outbound.dns_udp,
        outbound.not_tcp,
        outbound.resets,
        outbound.not_new,
        outbound.loopback,
        outbound.probes,
        outbound.dns_tcp,
        outbound.reply,
        outbound.to_self,
        outbound.not_selected,
        outbound.everything_else,
    ),
}


@lru_cache(maxsize=256)
def build(capture: Capture, *, stage: Stage = Stage.STEADY, table: str = POD_TABLE) -> Ruleset:
    """Return the whole table that carries out a capture. Chains that would be empty are left out, but for draining.

    Cached: like captures share one ruleset, so that 500 like pods are compared and encoded once.
    """
    if stage is Stage.DRAINING:
        # A namespace without any nat chain un-translates nothing: every captured stream would break. The proxy must
        # still be known, too: it may have yet to dial for a connection that it has accepted.
        unmarked = capture.proxy_user is not None or capture.proxy_cgroup is not None
        made_known = (RAW_OUT,) if capture.inbound and unmarked else ()
        nat_out = dataclasses.replace(NAT_OUT, rules=tuple(proxy.captured_go_on(capture, stage)))
        return with_counters(table, (*_chains(capture, stage, (*made_known, MANGLE_OUT)), nat_out))
    return with_counters(table, tuple(_chains(capture, stage, tuple(REASONS))), selection.sets(capture))


def _chains(capture: Capture, stage: Stage, places: tuple[Chain, ...]) -> Iterator[Chain]:
    for place in places:
        rules = tuple(rule for reason in REASONS[place] for rule in reason(capture, stage))
        if rules:
            yield dataclasses.replace(place, rules=rules)
