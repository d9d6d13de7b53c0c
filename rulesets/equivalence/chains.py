"""A packet's way through the rules of one base chain, and of those that it jumps to, for all values at once."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from rulesets.equivalence.conditions import Conditions, Unsayable
from rulesets.equivalence.effects import Actions, Effects
from rulesets.equivalence.nodes import Node
from rulesets.equivalence.space import Space
from rulesets.equivalence.terms import Header, RuleAt, Trip
from rulesets.model import Rule, Ruleset
from rulesets.packet import Fate
from rulesets.packet.effects import TRANSLATIONS, Place
from rulesets.vocabulary import ConnState, Continue, Goto, Jump, Return, Trace

_UNTRACKED = (ConnState.INVALID, ConnState.UNTRACKED)
_Onwards = Callable[[Trip], Node]


class Chains:
    """The rules that one base chain leads to. `ended` says how a packet fares that a rule has let out of it.

    A chain is gone through twice: forwards for what a packet can have become before each rule, which is little, and
    backwards for how each of these fares from there on, so that what comes behind is worked out once.
    """

    def __init__(
        self, space: Space, ruleset: Ruleset, number: int, place: Place, ended: _Onwards, *, naming: bool
    ) -> None:
        """Take the rules of a ruleset by its number."""
        self._space = space
        self._ruleset = ruleset
        self._number = number
        self._place = place
        self._ended = ended
        self._conditions = Conditions(space)
        self._actions = Actions(space, naming=naming)
        self._reached: dict[tuple[str, Trip], tuple[list[dict[Trip, None]], dict[Trip, None]]] = {}
        self._done: dict[object, Node] = {}

    def through(self, name: str, rules: Sequence[Rule], trip: Trip, returned: _Onwards) -> Node:
        """Return how a packet fares from a chain's first rule on; `returned` says so for where it leaves the chain."""
        reached, exits = self._forwards(name, rules, trip)
        onwards = {each: returned(each) for each in exits}
        key = (name, trip, tuple(onwards.items()))
        if key not in self._done:
            tails = {each: onwards[each] for each in reached[-1]}
            for number in reversed(range(len(rules))):
                self._space.diagrams.step(len(reached[number]))
                at = RuleAt(self._number, name, number)
                tails = {each: self._meets(rules[number], at, each, tails, onwards) for each in reached[number]}
            self._done[key] = tails[trip]
        return self._done[key]

    def _forwards(
        self, name: str, rules: Sequence[Rule], trip: Trip
    ) -> tuple[list[dict[Trip, None]], dict[Trip, None]]:
        """Return what a packet can have become before each rule and behind the last, and as what it can leave."""
        found = self._reached.get((name, trip))
        if found is not None:
            return found
        before: list[dict[Trip, None]] = [{trip: None}]
        exits: dict[Trip, None] = {}
        for number, rule in enumerate(rules):
            made: dict[Trip, None] = {}
            self._space.diagrams.step(len(before[-1]))
            for each in before[-1]:
                if self._where(rule, each)[0] is self._space.diagrams.no:
                    continue
                match rule.action:
                    case Return():
                        exits[each] = None
                    case Jump(chain=target):
                        made |= self._forwards(target, self._rules(target), each)[1]
                    case Goto(chain=target):
                        exits |= self._forwards(target, self._rules(target), each)[1]
                    case _:
                        effects, ends = self._carried_out(rule, RuleAt(self._number, name, number), each)
                        made |= {} if ends else dict.fromkeys(after for _, after in effects)
            if made.keys() <= before[-1].keys():
                before.append(before[-1])
            else:
                before.append(before[-1] | made)
                self._space.diagrams.keep(len(before[-1]))
        exits |= before[-1]
        self._reached[name, trip] = before, exits
        return before, exits

    def _rules(self, chain: str) -> Sequence[Rule]:
        found = self._ruleset.regular_chain(chain)
        return found.rules if found else ()

    def _seen(self, header: Header) -> Header:
        """Return a packet as the rules see it: before connection tracking, what isn't known already is of no state."""
        if not self._place.early or header.settled or header.state is ConnState.UNTRACKED:
            return header
        return replace(header, state=ConnState.INVALID)

    def _where(self, rule: Rule, trip: Trip) -> tuple[Node, str]:
        """Return where a rule's matches hold, those aside of which that can't be said, and the first of these."""
        seen = self._seen(trip.header)
        where, unsayable = self._space.diagrams.yes, ""
        for match in rule.matches:
            try:
                condition = self._conditions.of(self._number, match, seen, self._place.hook)
            except Unsayable as foreign:
                unsayable = unsayable or str(foreign)
                continue
            where = self._space.diagrams.both(where, condition)
            if where is self._space.diagrams.no:
                break
        if unsayable and isinstance(rule.action, Continue | Trace):
            return self._space.diagrams.no, ""  # whether it is counted or traced is nothing to the packet
        return where, unsayable

    def _carried_out(self, rule: Rule, at: RuleAt, trip: Trip) -> tuple[Effects, bool]:
        tracked = self._seen(trip.header).state not in _UNTRACKED
        effects, ends = self._actions.carry_out(rule.action, trip, self._place, at, tracked=tracked)
        if isinstance(rule.action, TRANSLATIONS):
            effects = tuple((where, replace(made, mapped=True)) for where, made in effects)
        return effects, ends

    def _meets(self, rule: Rule, at: RuleAt, trip: Trip, after: dict[Trip, Node], onwards: dict[Trip, Node]) -> Node:
        """Return how a packet fares from a rule on: `after` that rule, or `onwards` where it leaves the chain."""
        where, unsayable = self._where(rule, trip)
        otherwise = after[trip]
        if where is self._space.diagrams.no:
            return otherwise
        match rule.action:
            case Return():
                then = onwards[trip]
            case Jump(chain=target):
                then = self.through(target, self._rules(target), trip, after.__getitem__)
            case Goto(chain=target):
                then = self.through(target, self._rules(target), trip, onwards.__getitem__)
            case _:
                effects, ends = self._carried_out(rule, at, trip)
                then = self._ended(effects[-1][1]) if ends else after[effects[-1][1]]
                for within, made in reversed(effects[:-1]):
                    then = self._space.diagrams.choose(within, self._ended(made) if ends else after[made], then)
        if unsayable:
            then = self._unless_it_matters(then, otherwise, unsayable)
        return self._space.diagrams.choose(where, then, otherwise)

    def _unless_it_matters(self, then: Node, otherwise: Node, unsayable: str) -> Node:
        """Return how a packet fares where that is the same either way; elsewhere nobody knows."""

        def known(one: Trip, other: Trip) -> Node:
            if one.nameless() == other.nameless():
                return self._space.diagrams.leaf(other)
            return self._space.diagrams.leaf(replace(other, fate=Fate.UNKNOWN, unknown=unsayable))

        return self._space.diagrams.joined((then, otherwise), known)
