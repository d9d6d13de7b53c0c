"""An nft table as iptables' chains of one family, meaning the same for every packet of that family.

Each nft chain becomes a user-defined chain that the built-in chain at its place jumps to first. nft's accept ends its
own chain alone, and others at later priorities still see the packet: that is RETURN there, for ACCEPT would end the
whole table. What packets of the family can't meet is left out. What iptables can't express is an error.
"""

from dataclasses import dataclass, field

from rulesets.iptables.elements import Choice, Lookup, Never, inline, lookups_of, narrowed
from rulesets.iptables.order import in_order
from rulesets.iptables.places import PROGRAMS, TABLES, Place, place_of
from rulesets.iptables.text import render_rule
from rulesets.model import Chain, Count, RegularChain, Rule, Ruleset, implied_families, implied_protocols
from rulesets.vocabulary import (
    Accept,
    CtZone,
    CtZoneBoth,
    Dnat,
    Drop,
    Family,
    Goto,
    Hook,
    InSet,
    Jump,
    LocalSocket,
    Match,
    ModelError,
    OfFamily,
    Policy,
    Proto,
    Protocol,
    Redirect,
    Reject,
    RejectWith,
    Return,
    SocketCgroup,
    SocketOwner,
    SocketUser,
)

_LONGEST_NAME = 28  # XT_EXTENSION_MAXNAMELEN - 1, include/uapi/linux/netfilter/x_tables.h
_ALL_PORTS = (0, 65535)
_TERMINAL = (Redirect, Dnat, Reject, Return, Drop)


def translate(ruleset: Ruleset, family: Family) -> Ruleset:
    """Return the ruleset as iptables' own of one family; one that is that already stays as it is.

    Raises `ModelError`, which names the chain and the rule, for what iptables can't express.
    """
    if ruleset.family is not None and ruleset.is_iptables:
        if ruleset.family is not family:
            raise ModelError(f"these are rules of {PROGRAMS[ruleset.family]}, not of {PROGRAMS[family]}")
        return ruleset
    if ruleset.theirs or ruleset.foreign or ruleset.regular:
        raise ModelError(f"table {ruleset.table!r} holds what Weir never writes")
    regular: list[RegularChain] = []
    jumps: dict[str, list[Rule]] = {}
    for chain in ruleset.chains:
        writer = _Writer(ruleset=ruleset, family=family, chain=chain, place=place_of(chain))
        regular += writer.write()
        lead = Rule(slug="", matches=(), action=Jump(chain=writer.name(0)), count=Count())
        jumps.setdefault(writer.place.name, []).append(lead)
    tables = {name.partition("/")[0] for name in jumps}
    chains = tuple(place.chain_of(tuple(jumps.get(place.name, ()))) for table in tables for place in TABLES[table])
    return Ruleset(table=PROGRAMS[family], family=family, chains=chains, regular=tuple(regular))


@dataclass(slots=True, kw_only=True)
class _Writer:
    """Writes the rules of one nft chain into as many user-defined chains as it takes."""

    ruleset: Ruleset
    family: Family
    chain: Chain
    place: Place
    chains: list[list[Rule]] = field(default_factory=lambda: [[]])
    at: int = 0

    def write(self) -> list[RegularChain]:
        seen: list[Rule] = []
        for rule in self.chain.rules:
            try:
                special = self._specialised(rule)
                self._refuse_places(special, seen)
                self._write(special)
                seen.append(special)
            except Never:
                continue
            except ModelError as error:
                raise ModelError(f"chain {self.chain.name!r}, rule {rule.slug!r}: {error}") from None
        if self.chain.policy is Policy.DROP:
            if self.place.table == "nat":
                raise ModelError(f"chain {self.chain.name!r}: iptables drops nothing in its nat table")
            self._add(Rule(slug="", matches=(), action=Drop(), count=Count()))
        return [RegularChain(name=self.name(at), rules=tuple(rules)) for at, rules in enumerate(self.chains)]

    def name(self, at: int) -> str:
        """Return the name of one of the chains."""
        name = f"{self.ruleset.table}-{self.chain.name}{f'-{at}' if at else ''}"
        if len(name) > _LONGEST_NAME:
            raise ModelError(f"chain {name!r}: iptables takes names of {_LONGEST_NAME} characters at most")
        return f"{self.place.table}/{name}"

    def _specialised(self, rule: Rule) -> Rule:
        """Return what a rule asks of packets of the family; raises `Never` when it is not for them."""
        matches: list[Match] = []
        for match in rule.matches:
            if any(family is not self.family for family in implied_families(match)):
                raise Never
            if isinstance(match, OfFamily) or match in matches:
                continue
            matches += narrowed(match)
        action = Return() if isinstance(rule.action, Accept) else rule.action
        return Rule(slug=rule.slug, matches=tuple(matches), action=action, count=Count())

    def _write(self, rule: Rule) -> None:
        protocol = next((each for match in rule.matches for each in implied_protocols(match)), None)
        lookups = [each for match in rule.matches for each in lookups_of(self.ruleset, match)]
        plain: list[Match] = [match for match in rule.matches if not isinstance(match, InSet)]
        alternatives: list[Lookup] = []
        for each in lookups:
            matches = inline(each)
            if matches is not None:
                plain += matches
                continue
            alternatives.append(each)
            # What isn't found may be of any protocol, and nft asks for the one that has the field.
            plain += each.implied if each.negate else ()
        plain = list(in_order(plain))
        if not alternatives:
            self._add(self._rule(rule, plain, protocol))
        elif len(alternatives) == 1 and not alternatives[0].negate:
            for choice in alternatives[0].choices:
                self._add(self._rule(rule, [*plain, *choice], protocol))
        else:
            self._split(rule, plain, alternatives, protocol)

    def _split(self, rule: Rule, plain: list[Match], lookups: list[Lookup], protocol: Protocol | None) -> None:
        """Write a rule with several lookups, or one that must not be found, as chains that go on to one another.

        All by goto, so that RETURN leaves for the built-in chain from any of them: a packet that is what the rule asks
        for gets to its action, every other goes on to the chain that holds the rules behind it.
        """
        rest, test = self._new_chain(), self.at
        if plain:
            test = self._new_chain()
            self._lead(plain, test)
            self._lead((), rest)
        for lookup in lookups:
            self.at = test
            if lookup.negate:
                for choice in lookup.choices:
                    self._lead(choice, rest)
            else:
                test = self._new_chain()
                for choice in lookup.choices:
                    self._lead(choice, test)
                self._lead((), rest)
        self.at = test
        self._add(self._rule(rule, [], protocol))
        if not isinstance(rule.action, _TERMINAL):
            self._lead((), rest)
        self.at = rest

    def _new_chain(self) -> int:
        self.chains.append([])
        return len(self.chains) - 1

    def _lead(self, matches: Choice, to: int) -> None:
        """Add a rule that goes on to another of the chains. It has no slug: it isn't what decides."""
        self._add(Rule(slug="", matches=in_order(matches), action=Goto(chain=self.name(to)), count=Count()))

    def _rule(self, rule: Rule, matches: Choice, protocol: Protocol | None) -> Rule:
        stated = [each for match in matches for each in implied_protocols(match)]
        needed = isinstance(rule.action, Redirect | Dnat) or rule.action == Reject(reply=RejectWith.TCP_RESET)
        if needed and not stated and protocol is not None:
            matches = [*matches, Proto(protocol=protocol)]
        return Rule(slug=rule.slug, matches=in_order(matches), action=rule.action, count=Count())

    def _add(self, rule: Rule) -> None:
        render_rule(rule, self.family)  # says what can't be written
        self.chains[self.at].append(rule)

    def _refuse_places(self, rule: Rule, before: list[Rule]) -> None:
        """Refuse what iptables doesn't take at this place; raises `Never` where nothing gets to it anyway."""
        hook, table = self.place.hook, self.place.table
        wrong = ""
        if any(isinstance(match, SocketUser | SocketOwner | LocalSocket) for match in rule.matches):
            if hook not in (Hook.OUTPUT, Hook.POSTROUTING):
                wrong = f"iptables knows who owns a socket on output and in postrouting, not in {hook}"
        elif any(isinstance(match, SocketCgroup) for match in rule.matches) and hook is Hook.PREROUTING:
            wrong = f"iptables knows no cgroup of a socket in {hook}"
        match rule.action:
            case Reject() if table != "filter":
                wrong = f"iptables rejects in its filter table only, and this stands in {table}"
            case CtZone() | CtZoneBoth() if table != "raw":
                wrong = f"iptables sets zones in its raw table only, and this stands in {table}"
            case Jump() | Goto():
                wrong = "a jump is not translated"
            case _:
                pass
        if wrong and _unreachable(rule, before):
            raise Never
        if wrong:
            raise ModelError(wrong)


def _unreachable(rule: Rule, before: list[Rule]) -> bool:
    """Tell whether nothing gets to a rule, since one before takes all that it asks for and more."""
    asked = _asked(rule)
    return any(isinstance(each.action, _TERMINAL) and _asked(each) <= asked for each in before)


def _asked(rule: Rule) -> set[Match]:
    """Return what a rule asks for, the protocols that it implies included."""
    implied = {Proto(protocol=each) for match in rule.matches for each in implied_protocols(match)}
    return {*rule.matches, *implied}
