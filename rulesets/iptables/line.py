"""One ``-A`` line as a rule: what is known becomes matches and an action, the rest stays as it was written."""

import re

from rulesets.iptables.matches import matches_of
from rulesets.iptables.options import Unknown, network, options
from rulesets.iptables.targets import BESIDE, EXTENSIONS, PLAIN, action_of
from rulesets.iptables.words import FREE_TEXT, Word, raw, split
from rulesets.model import Count, Rule
from rulesets.model.rule import SLUG
from rulesets.vocabulary import (
    INTERFACE,
    Action,
    Comment,
    Continue,
    Dst,
    Family,
    Foreign,
    Goto,
    InIface,
    Jump,
    Match,
    ModelError,
    OtherProto,
    OutIface,
    Proto,
    Protocol,
    Src,
)

_COUNTERS = re.compile(r"\[(\d+):(\d+)\] +")
_SPLITS_AT = frozenset(
    "-m --match -j --jump -g --goto -s --source --src -d --destination --dst -i --in-interface -o --out-interface"
    " -p --protocol --proto -f --fragment -c --set-counters".split()
)
# What iptables prints by name, of the protocols that have no variant (libxtables, xtables_chain_protos).
PROTOCOL_NUMBERS = {
    "igmp": 2,
    "ipencap": 4,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "vrrp": 112,
    "sctp": 132,
    "ipv6-mh": 135,
    "mh": 135,
    "udplite": 136,
    "dccp": 33,
}
_PROTOCOLS = {
    **{each.value: each for each in Protocol},
    "1": Protocol.ICMP,
    "6": Protocol.TCP,
    "17": Protocol.UDP,
    "58": Protocol.ICMPV6,
    "icmpv6": Protocol.ICMPV6,
}

# The order in which iptables prints what has an option of its own, whatever the order in which it was given.
_RANKS: dict[type[Match], int] = {Src: 0, Dst: 1, InIface: 2, OutIface: 3, Proto: 4, OtherProto: 4}


def chain_and_rule(line: str, table: str, chains: frozenset[str] | set[str], family: Family) -> tuple[str, Rule]:
    """Return the chain of an ``-A`` line and its rule; `chains` are the table's own, without the built-in ones.

    Raises `ModelError` for a line that is none, or that jumps where there is no chain, `OtherFamily` for one that only
    the other family's save holds.
    """
    counted = _COUNTERS.match(line)
    packets, size = (int(counted[1]), int(counted[2])) if counted else (0, 0)
    words = split(line[counted.end() :] if counted else line)
    if len(words) < 2 or words[0].raw != "-A":
        raise ModelError("a save holds rules that begin with -A and a chain, and nothing else")
    reader = _Reader(words[2:], table, chains, family)
    reader.read()
    packets, size = reader.counters or (packets, size)
    return words[1].text, _rule(tuple(reader.matches()), reader.action, Count(packets=packets, bytes=size))


def _rule(matches: tuple[Match, ...], action: Action, count: Count) -> Rule:
    slug = ""
    if matches and isinstance(matches[-1], Comment) and SLUG.fullmatch(matches[-1].text):
        slug, matches = matches[-1].text, matches[:-1]
    return Rule(slug=slug, matches=matches, action=action, count=count)


class _Reader:
    """Takes the words of one rule, part by part."""

    def __init__(self, words: list[Word], table: str, chains: frozenset[str] | set[str], family: Family) -> None:
        self.words = words
        self.at = 0
        self.table, self.chains, self.family = table, chains, family
        self.protocol: Protocol | None = None
        self.head: list[Match] = []
        self.sections: list[Match] = []
        self.action: Action = Continue()
        self.counters: tuple[int, int] | None = None

    def matches(self) -> list[Match]:
        """Return all that was matched; the protocol only where nothing behind it implies it."""
        self.head.sort(key=lambda match: _RANKS[type(match)])
        if self.protocol is not None and not any(
            getattr(each, "protocol", None) or hasattr(each, "among") for each in self.sections
        ):
            return [*self.head, Proto(protocol=self.protocol), *self.sections]
        return [*self.head, *self.sections]

    def read(self) -> None:
        """Take all words."""
        while self.at < len(self.words):
            start = self.at
            negate = self.words[start].raw == "!"
            if negate and start + 1 == len(self.words):
                self._keep(start, start + 1)
                return
            self.at += 2 if negate else 1
            self._part(start, self.words[self.at - 1], negate=negate)

    def _part(self, start: int, word: Word, *, negate: bool) -> None:
        match word.raw:
            case "-s" | "--source" | "--src":
                self._network(start, Src, negate=negate)
            case "-d" | "--destination" | "--dst":
                self._network(start, Dst, negate=negate)
            case "-i" | "--in-interface":
                self._interface(start, InIface, negate=negate)
            case "-o" | "--out-interface":
                self._interface(start, OutIface, negate=negate)
            case "-p" | "--protocol" | "--proto":
                self._protocol(start, negate=negate)
            case "-m" | "--match" if not negate:
                self._section(start, self._value(), self.at)
            case "-j" | "--jump" if not negate:
                self._target(start)
            case "-g" | "--goto" if not negate:
                target = self._value()
                if target not in self.chains:
                    raise ModelError(f"goes to chain {target!r}, which table {self.table} does not have")
                self.action = Goto(chain=f"{self.table}/{target}")
            case "-c" | "--set-counters" if not negate:
                packets, size = self._value(), self._value()
                if not (packets.isdecimal() and size.isdecimal()):
                    raise ModelError("-c wants two numbers")
                self.counters = (int(packets), int(size))
            case _ if word.is_option and word.raw not in _SPLITS_AT and self.protocol is not None:
                self.at = start  # as a hand writes it: -p tcp --dport 80
                self._section(start, self.protocol.value, start)
            case _:
                self._keep(start, self._end(self.at))

    def _value(self) -> str:
        if self.at == len(self.words):
            raise ModelError(f"{self.words[-1].raw} stands at the end of the line")
        self.at += 1
        return self.words[self.at - 1].text

    def _keep(self, start: int, end: int) -> None:
        """Keep words as they were written."""
        self.sections.append(Foreign(verbatim=raw(self.words[start:end])))
        self.at = end

    def _end(self, at: int) -> int:
        """Return where the part of the line ends that begins here: before the next match or target."""
        while at < len(self.words):
            word = self.words[at]
            behind = self.words[at + 1] if word.raw == "!" and at + 1 < len(self.words) else word
            if not behind.quoted and behind.raw in _SPLITS_AT:
                return at
            at += 2 if word.raw in FREE_TEXT else 1
        return min(at, len(self.words))

    def _network(self, start: int, kind: type[Src] | type[Dst], *, negate: bool) -> None:
        try:
            self.head.append(kind(network=network(self._value(), self.family), negate=negate))
        except Unknown:
            self._keep(start, self.at)

    def _interface(self, start: int, kind: type[InIface] | type[OutIface], *, negate: bool) -> None:
        shown = self._value()
        name = f"{shown[:-1]}*" if shown.endswith("+") else shown
        if "*" in shown or not INTERFACE.fullmatch(name):
            self._keep(start, self.at)
        else:
            self.head.append(kind(name=name, negate=negate))

    def _protocol(self, start: int, *, negate: bool) -> None:
        name = self._value()
        known = _PROTOCOLS.get(name)
        if known and not negate:
            self.protocol = known
        elif known:
            self.head.append(Proto(protocol=known, negate=True))
        elif name in PROTOCOL_NUMBERS or name.isdecimal():
            self.head.append(OtherProto(number=PROTOCOL_NUMBERS.get(name) or int(name), negate=negate))
        elif name != "all" or negate:
            self._keep(start, self.at)

    def _section(self, start: int, name: str, inside: int) -> None:
        end = self._end(inside)
        try:
            self.sections += matches_of(name, options(self.words[inside:end]), self.protocol, self.family)
            self.at = end
        except (Unknown, ModelError):
            self._keep(start, end)

    def _target(self, start: int) -> None:
        name, inside = self._value(), self.at
        self.at = len(self.words)
        if name in self.chains and inside == self.at:
            self.action = Jump(chain=f"{self.table}/{name}")
            return
        if name not in EXTENSIONS and name not in PLAIN and inside == self.at:
            raise ModelError(f"jumps to chain {name!r}, which table {self.table} does not have")
        verbatim = raw(self.words[start:])
        try:
            self.action = action_of(name, options(self.words[inside:]), self.family)
        except Unknown:
            self.action = Continue(beside=verbatim) if name in BESIDE else Foreign(verbatim=verbatim)
