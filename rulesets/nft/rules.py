"""The rules of others' tables: what each asks of a packet, and what it does then."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rulesets.model import Count, Rule, Set
from rulesets.model.jumps import jumps_to
from rulesets.model.rule import SLUG
from rulesets.model.sets import key_of_field
from rulesets.nft.others import aside_of, their_action, their_match
from rulesets.nft.read_json import Json
from rulesets.nft.statements import MISSHAPEN, Unknown
from rulesets.vocabulary import Action, Aside, Comment, Continue, Foreign, InSet, Match, Trace

_NOTHING = Count(counts=False)
_TRACED = Aside(statement=json.dumps({"mangle": {"key": {"meta": {"key": "nftrace"}}, "value": 1}}, sort_keys=True))
_KNOWN = {"family", "table", "chain", "handle", "expr", "comment"}
# What can end a rule for some packets, as a match does: no verdict, and a packet for which it fails goes on.
_GATES = frozenset(("match", "limit", "quota", "set", "map", "meter", "ct count", "xt"))


def foreign(what: object) -> Foreign:
    """Return something that has no variant, verbatim."""
    return Foreign(verbatim=json.dumps(what, sort_keys=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Reads the rules of a table with these sets and counters; `elsewhere` are chains that could not be read.

    Where rules may be Weir's `own`, one that is counted by a counter of its comment's name is as Weir writes it.
    """

    sets: Mapping[str, Set]
    counters: Collection[str]
    elsewhere: Collection[str]
    own: bool

    def rule(self, body: Json) -> Rule:
        """Return one rule of a listing; no part of it is left out."""
        expressions, comment = body["expr"], str(body.get("comment", ""))
        if not isinstance(expressions, list) or body.keys() - _KNOWN:
            return Rule(slug="", matches=(), action=foreign(body), count=_NOTHING)
        counted_by_slug = {"counter": comment} in expressions[-2:-1] and comment in self.counters
        if self.own and counted_by_slug and SLUG.fullmatch(comment):
            matches, action = self._parts([*expressions[:-2], expressions[-1]])
            if matches and matches[-1] == _TRACED and isinstance(action, Continue):
                matches, action = matches[:-1], Trace()
            if not any(isinstance(each, Aside) for each in matches) and not isinstance(action, Continue):
                return Rule(slug=comment, matches=tuple(matches), action=action)
        matches, action = self._parts(expressions)
        count = _NOTHING
        if matches and isinstance(matches[-1], Aside):
            match json.loads(matches[-1].statement):
                case {"counter": {"packets": int(packets), "bytes": int(size)}}:
                    matches.pop()
                    count = Count(packets=packets, bytes=size)
                case _:
                    pass
        if SLUG.fullmatch(comment):
            return Rule(slug=comment, matches=tuple(matches), action=action, count=count)
        remark = (Comment(text=comment),) if comment else ()
        return Rule(slug="", matches=(*matches, *remark), action=action, count=count)

    def _parts(self, statements: list[Json]) -> tuple[list[Match], Action]:
        """Return what stands before the first statement that does something, and that; of several the JSON of all."""
        matches: list[Match] = []
        for at, each in enumerate(statements):
            last = at + 1 == len(statements)
            if (aside := _aside(each)) is not None and (last or each != {"continue": None}):
                matches.append(aside)
            elif _is_gate(each, last=last):
                matches.append(self._match(each))
            else:
                return matches, self._action(each) if last else foreign(statements[at:])
        return matches, Continue()

    def _match(self, statement: Json) -> Match:
        try:
            _alone(statement)
            found = their_match(statement)
        except MISSHAPEN:
            return foreign(statement)
        if isinstance(found, InSet):
            looked_up = self.sets.get(found.name)
            if looked_up is None or looked_up.key != key_of_field(found.field):
                return foreign(statement)
        return found

    def _action(self, statement: Json) -> Action:
        try:
            _alone(statement)
            found = their_action(statement)
        except MISSHAPEN:
            return foreign(statement)
        target = jumps_to(Rule(slug="", matches=(), action=found, count=_NOTHING))
        return foreign(statement) if target in self.elsewhere else found


def _alone(statement: Json) -> None:
    """Refuse what is more than one statement, and truth values: they would pass for the numbers 0 and 1."""
    if len(statement) != 1 or _has_truth(statement):
        raise Unknown(statement)


def _has_truth(part: object) -> bool:
    if isinstance(part, dict):
        return any(map(_has_truth, part.values()))
    return isinstance(part, bool) or (isinstance(part, list) and any(map(_has_truth, part)))


def _aside(statement: object) -> Aside | None:
    return aside_of(statement) if isinstance(statement, dict) and len(statement) == 1 else None


def _is_gate(statement: object, *, last: bool) -> bool:
    """Tell whether packets may fail here; the last of iptables' own parts is what the rule does."""
    if not isinstance(statement, dict) or len(statement) != 1:
        return False
    (kind,) = statement
    return kind in _GATES and not (kind == "xt" and last)
