"""The look before a migration: what another agent has in a namespace, and whether every packet would fare alike."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import assert_never

from agent.against import Live, Rules, in_force_at_once, together
from agent.comparison import Comparison, compare
from agent.errors import TargetError
from agent.kernel.foreign_routing import ForeignRouting
from agent.kernel.handle import Handle
from agent.kernel.iptables import Flavour
from agent.kernel.nftables import Tables
from agent.migration.old import Old, OldChains, OldNft, chains_of
from agent.migration.owners import ISTIO_MARK, chains_by_owner, is_istios_in_pod, marks_of
from agent.observed import observe
from agent.targets import Target
from rulesets.equivalence import WANTED, Differs, Equal, Proof, Unknown, prove
from rulesets.host import HOST_TABLE
from rulesets.model import Rule, Ruleset
from rulesets.model.jumps import jumps_to
from rulesets.pod import POD_TABLE
from rulesets.vocabulary import Mark

_OURS = (POD_TABLE, HOST_TABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The rules in force in a namespace, told apart. `marks` are the other agent's connection marks."""

    old: Old
    marks: frozenset[Mark]
    theirs: tuple[Ruleset, ...]
    others: tuple[Ruleset, ...]
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Two sides, all that is in force before and after, and whether packets fare alike on both."""

    here: Rules
    there: Rules
    proof: Proof

    @property
    def in_the_way(self) -> str:
        """What keeps a migration from going on by itself, in words; empty where nothing does."""
        match self.proof:
            case Equal():
                return ""
            case Unknown(reasons=reasons):
                return f"nobody can tell whether every packet would fare alike: {reasons[0] if reasons else 'unknown'}"
            case Differs(differences=differences):
                plainest = next((each for each in differences if not each.wanted), differences[0])
                but = f" ({plainest.wanted}, which was not expected)" if plainest.wanted else ""
                return f"a packet would fare differently: {plainest}{but}"
            case _:
                assert_never(self.proof)


def find(handle: Handle) -> Found:
    """Return what is in force in a namespace, and what of it is another agent's. Reads only.

    Raises `KernelError`, and `ProgramMissing` where there are tables of iptables and no program to read them with.
    """
    looked = in_force_at_once(handle, tuple(Live))
    legacy, nft = looked[Live.LEGACY], looked[Live.NFT]
    chains: list[OldChains] = []
    owners: list[str] = []
    marks: frozenset[Mark] = frozenset()
    others: list[Ruleset] = []
    names: list[str] = []
    for flavour, side in ((Flavour.LEGACY, legacy), (Flavour.NFT, nft)):
        for ruleset in side.rulesets:
            if not ruleset.is_iptables:
                if is_istios_in_pod(ruleset):
                    names.append(ruleset.table)
                    marks |= {ISTIO_MARK}
                elif ruleset.table not in _OURS:
                    others.append(ruleset)
                continue
            by_owner = chains_by_owner(ruleset)
            mine = frozenset(name for some in by_owner.values() for name in some)
            owners += by_owner
            if mine:
                chains.append(chains_of(ruleset, flavour, mine))
                marks |= marks_of(each for each in ruleset.regular if each.name in mine)
            others.append(without(ruleset, mine))
    with handle.inside():
        texts = _texts(names)
        with ForeignRouting() as routing:
            rules = routing.rules(marks)
            routes = routing.routes({each.table for each in rules})
    old = Old(
        owners=tuple(dict.fromkeys((*owners, *(["Istio"] if texts else [])))),
        chains=tuple(chains),
        nft=texts,
        rules=rules,
        routes=routes,
    )
    every = together((legacy, nft))
    return Found(
        old=old,
        marks=marks,
        theirs=tuple(each for each in every.rulesets if each.table not in _OURS),
        others=tuple(others),
        unread=every.unread,
    )


def judge(found: Found, target: Target, wanted: Comparison, expected: Collection[str] = ()) -> Judged:
    """Return how packets fare under all that is in force, and once another agent's rules have given way to Weir's.

    `expected` are slugs of wanted differences; none is all of them.
    """
    desired = wanted.plan.rules.desired
    if desired is None:
        raise TargetError(f"target {target.name!r}: isn't to be captured, so there is nothing to compare")
    whose = " and ".join(found.old.owners)
    here = Rules(name=f"the rules wanted for {target.name}, without {whose}'s", rulesets=(desired, *found.others))
    there = Rules(name=f"the rules in force in {target.netns}, {whose}'s among them", rulesets=found.theirs)
    if found.unread:
        return Judged(here=here, there=there, proof=Unknown(cells=0, unknown=0, reasons=found.unread))
    return Judged(here=here, there=there, proof=prove(here.rulesets, there.rulesets, expected=expected or WANTED))


def compared(handle: Handle, target: Target) -> Comparison:
    """Return how the namespace differs from the wish."""
    return compare(target, observe(handle, target))


def without(ruleset: Ruleset, names: frozenset[str]) -> Ruleset:
    """Return rules of iptables without some chains, and without what jumps to them."""

    def kept(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return tuple(rule for rule in rules if jumps_to(rule) not in names)

    if not names:
        return ruleset
    return replace(
        ruleset,
        chains=tuple(replace(each, rules=kept(each.rules)) for each in ruleset.chains),
        regular=tuple(replace(each, rules=kept(each.rules)) for each in ruleset.regular if each.name not in names),
    )


def _texts(names: list[str]) -> tuple[OldNft, ...]:
    if not names:
        return ()
    tables = Tables()
    try:
        return tuple(OldNft(table=each, text=tables.text(each)) for each in names)
    finally:
        tables.close()
