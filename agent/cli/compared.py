"""What a comparison of rules came to, in words and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from agent.against import Rules
from agent.cli import show
from agent.cli.failing import clean
from agent.words import counted
from rulesets import iptables, nft
from rulesets.equivalence import WANTED, Decided, Difference, Differs, Equal, Proof, Unknown, What
from rulesets.vocabulary import (
    Accept,
    Action,
    Dnat,
    DnatTo,
    Drop,
    Family,
    Masquerade,
    ModelError,
    Redirect,
    Reject,
    RejectIcmp,
    Snat,
    Tproxy,
)
from rulesets.vocabulary.words import sent

MOST_SHOWN = 20
_FAMILIES = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
_CODES = {Equal: 0, Differs: 1, Unknown: 2}
_ANSWERS = {Equal: "equal", Differs: "not equal", Unknown: "unknown"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Two sides, the families that were compared, and whether their packets fare alike."""

    here: Rules
    there: Rules
    families: tuple[Family, ...]
    proof: Proof

    @property
    def code(self) -> int:
        """The exit code."""
        return _CODES[type(self.proof)]

    def print_json(self) -> None:
        """Print it as one JSON document."""
        print(json.dumps(self.document(), indent=2))

    def document(self) -> dict[str, object]:
        """Return it as JSON can hold it."""
        proof = self.proof
        return {
            "answer": _ANSWERS[type(proof)],
            "families": list(self.families),
            "here": self.here.name,
            "there": self.there.name,
            "cells": proof.cells,
            "differences": [self._document(each) for each in _differences(proof)],
            "expected": [self._document(each) for each in proof.expected],
            "unknown": 0 if isinstance(proof, Equal) else proof.unknown,
            "reasons": [] if isinstance(proof, Equal) else list(proof.reasons),
        }

    def print_text(self, render: str, *, hint: bool = True) -> None:
        """Print it for people; `render` is the command that prints the rules of this side, if one does.

        With `hint`, say what to do at the end.
        """
        print(clean(self.sentence()))
        print(clean(f"  here: {self.here.name}\n  there: {self.there.name}"))
        for family in Family:
            if family not in self.families:
                print(f"  {_FAMILIES[family]} was not compared: no file tells of it on both sides")
        by_slug = _by_slug(_differences(self.proof))
        unnamed = by_slug.pop("", [])
        for each in unnamed[:MOST_SHOWN]:
            self._print(each)
        if len(unnamed) > MOST_SHOWN:
            print(f"  and {counted(len(unnamed) - MOST_SHOWN, 'difference')} more; --output json lists all")
        self._print_named("wanted", by_slug)
        self._print_named("expected", _by_slug(self.proof.expected))
        if not isinstance(self.proof, Equal):
            for reason in self.proof.reasons[:MOST_SHOWN]:
                print(clean(f"  unknown: {reason}"))
            if len(self.proof.reasons) > MOST_SHOWN:
                print(f"  and {len(self.proof.reasons) - MOST_SHOWN} reasons more; --output json lists all")
        if hint:
            show.hint(self._what_to_do(render))

    def sentence(self) -> str:
        """Return the answer."""
        of = "" if len(self.families) > 1 else f"{_FAMILIES[self.families[0]]} "
        match self.proof:
            case Equal(cells=cells, expected=expected):
                but = f", but for {counted(len(_by_slug(expected)), 'expected difference')}" if expected else ""
                return f"equal for all {of}packets{but}: {counted(cells, 'cell')}"
            case Differs(differences=differences):
                return f"not equal: {_sentence(min(differences, key=_is_wanted))}"
            case Unknown(unknown=0, reasons=reasons):
                return f"unknown: {counted(len(reasons), 'table')} can't be read"
            case Unknown(unknown=unknown):
                return f"unknown for {counted(unknown, 'cell')} of {of}packets; all others fare alike"
            case _:
                assert_never(self.proof)

    def _what_to_do(self, render: str) -> str:
        match self.proof:
            case Equal():
                return ""
            case Unknown() if self.here.compat or self.there.compat:
                return "compare with what iptables-save and ip6tables-save print of iptables' rules"
            case Unknown():
                return "compare without the rules that can't be read or are too many, or judge by hand what they do"
            case Differs(differences=differences):
                slugs = _by_slug(differences)
                if "" not in slugs:
                    return (
                        f"these differences are wanted: {' '.join(f'--expect {each}' for each in slugs)} takes them so"
                    )
                where = f"`{render}` prints the rules of this side; " if render else ""
                return f"{where}change one of the two rules that decide, then compare again"
            case _:
                assert_never(self.proof)

    def _print_named(self, kind: str, named: dict[str, list[Difference]]) -> None:
        """Print a packet for each slug, the plainest of its differences."""
        for slug, some in named.items():
            print(clean(f"  {kind}: {slug} ({counted(len(some), 'difference')}). {WANTED[slug].sentence}"))
            self._print(some[0])

    def _print(self, difference: Difference) -> None:
        print(clean(f"  {difference.witness}: another {difference.what}"))
        print(clean(f"    here   {_rule(difference.a_decided, self._family(difference))}"))
        print(clean(f"    there  {_rule(difference.b_decided, self._family(difference))}"))

    def _document(self, difference: Difference) -> dict[str, object]:
        family = self._family(difference)
        return {
            "packet": str(difference.witness),
            "what": str(difference.what),
            "wanted": difference.wanted,
            "sentence": _sentence(difference),
            "here": _decided(difference.a_decided, family),
            "there": _decided(difference.b_decided, family),
        }

    @staticmethod
    def _family(difference: Difference) -> Family:
        return difference.witness.kind.family


def _differences(proof: Proof) -> tuple[Difference, ...]:
    return proof.differences if isinstance(proof, Differs) else ()


def _is_wanted(difference: Difference) -> bool:
    return bool(difference.wanted)


def _by_slug(differences: Sequence[Difference]) -> dict[str, list[Difference]]:
    found: dict[str, list[Difference]] = {}
    for each in differences:
        found.setdefault(each.wanted, []).append(each)
    return found


def _sentence(difference: Difference) -> str:
    one, other = difference.a_decided, difference.b_decided
    if difference.what in (What.FATE, What.TARGET):
        return f"{difference.witness} is {_done(one)} here and {_done(other)} there"
    return f"{difference.witness} gets another {difference.what}, by {_by(one)} here and by {_by(other)} there"


def _done(decided: Decided) -> str:
    """Return what becomes of a packet, and by which rule."""
    if decided.rule is None:
        return f"decided by {_by(decided)}" if decided.chain else "left alone, for no rule is about it"
    return f"{_participle(decided.rule.action)} by {_by(decided)}"


def _participle(action: Action) -> str:
    match action:
        case Accept():
            return "accepted"
        case Drop():
            return "dropped"
        case Reject() | RejectIcmp():
            return "refused"
        case Redirect() | Dnat() | DnatTo() | Snat() | Masquerade() | Tproxy():
            return sent(action)
        case _:
            return "decided"


def _by(decided: Decided) -> str:
    if not decided.chain:
        return "no rule"
    if decided.rule is None:
        return f"the policy of {_chain(decided)}"
    return decided.rule.slug or f"rule {decided.number} of {_chain(decided)}"


def _chain(decided: Decided) -> str:
    """Return the name of a chain that is unique: iptables' are named after their table."""
    return decided.chain if _is_iptables(decided) else f"{decided.chain} in table {decided.table}"


def _is_iptables(decided: Decided) -> bool:
    return decided.table in iptables.PROGRAMS.values() and "/" in decided.chain


def _rule(decided: Decided, family: Family) -> str:
    """Return a rule with its place, in the language of its chain."""
    if decided.rule is None:
        return _by(decided)
    return f"{_chain(decided)}, rule {decided.number}: {_text(decided, family)}"


def _text(decided: Decided, family: Family) -> str:
    if decided.rule is None:
        return ""
    if not _is_iptables(decided):
        return nft.render_rule(decided.rule)
    try:
        return iptables.render_rule(decided.rule, family)
    except ModelError:
        return nft.render_rule(decided.rule)


def _decided(decided: Decided, family: Family) -> dict[str, object]:
    return {
        "table": decided.table,
        "chain": decided.chain,
        "number": decided.number,
        "slug": "" if decided.rule is None else decided.rule.slug,
        "rule": _text(decided, family),
    }
