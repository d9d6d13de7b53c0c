"""What the rules of both sides mention of each header field, and the atoms that come of it."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rulesets.equivalence.anonymous import address_spans, is_of_addresses
from rulesets.equivalence.atoms import Atoms, Span, cut, joined, sort_out
from rulesets.equivalence.limits import TooLarge, Work
from rulesets.equivalence.marks import MarkGroups, group
from rulesets.equivalence.plain import (
    ADDRESSES,
    BROADCAST,
    CLIENTS,
    FLAGS,
    INTERFACES,
    LOOPBACK,
    LOOPBACK_ADDRESS,
    MOST_USER,
    MULTICAST,
    NOBODY,
    SERVICES,
    UNSPECIFIED,
    USERS,
    begins,
)
from rulesets.equivalence.runs import Merged
from rulesets.equivalence.spans import (
    PAIR_FIELDS,
    PORT_FIELDS,
    ends_of,
    family_of_element,
    pairs,
    ports_looked_up,
)
from rulesets.model import AddressPort, Rule, Ruleset, implied_families
from rulesets.vocabulary import (
    Action,
    Between,
    ConnMark,
    Dnat,
    DnatTo,
    Dst,
    DstPort,
    Family,
    InIface,
    InSet,
    Match,
    NoTcpFlags,
    OneOf,
    OutIface,
    Owner,
    PacketMark,
    PortRange,
    Ports,
    Protocol,
    Redirect,
    Snat,
    SocketCgroup,
    SocketOwner,
    SocketUser,
    Src,
    SrcPort,
    TcpFlag,
    TcpFlags,
    family_of,
)


@dataclass(frozen=True, kw_only=True)
class Mentions:
    """The rules in force for one family, by the number of their ruleset, runs of them merged.

    `work` counts what a proof about them costs.
    """

    merged: tuple[Merged, ...]
    family: Family
    work: Work = field(default_factory=Work, compare=False)

    @property
    def rulesets(self) -> tuple[Ruleset, ...]:
        """The rulesets as they are compared."""
        return tuple(each.ruleset for each in self.merged)

    def _rules(self) -> Iterator[tuple[int, Rule]]:
        """Yield every rule that a packet of the family could meet."""
        for number, ruleset in enumerate(self.rulesets):
            if ruleset.family in (None, self.family):
                for rule in ruleset.rules():
                    yield number, rule

    @cached_property
    def _asked(self) -> dict[type[Match], list[tuple[int, Match]]]:
        """What is asked, each once, by what it asks for; where it looks a set up, with the number of the ruleset.

        Anonymous sets are taken apart, but for those of addresses, which may be long and are known by identity.
        """
        each = {
            (number if isinstance(match, InSet) else id(match) if isinstance(match, OneOf) else 0, match): None
            for number, rule in self._rules()
            for asked in rule.matches
            for match in (asked.matches if isinstance(asked, OneOf) and not is_of_addresses(asked) else (asked,))
        }
        found: dict[type[Match], list[tuple[int, Match]]] = {}
        for number, match in each:
            found.setdefault(type(match), []).append((number, match))
        return found

    def _matches(self, *kinds: type[Match]) -> Iterator[tuple[int, Match]]:
        for kind in kinds:
            yield from self._asked.get(kind, ())

    @cached_property
    def _actions(self) -> tuple[Action, ...]:
        return tuple({rule.action: None for _, rule in self._rules()})

    @property
    def addresses(self) -> Atoms[int]:
        """The addresses of the family, cut by whatever asks for either end's. Raises `TooLarge`."""
        if isinstance(self._addresses, TooLarge):
            raise self._addresses
        return self._addresses

    @cached_property
    def _addresses(self) -> Atoms[int] | TooLarge:
        try:
            return self._cut_addresses()
        except TooLarge as error:
            return error

    def _cut_addresses(self) -> Atoms[int]:
        of_family = [LOOPBACK[self.family], MULTICAST[self.family], UNSPECIFIED[self.family]]
        spans: dict[Hashable, Sequence[Span]] = {each: [ends_of(each)] for each in of_family}
        single = [LOOPBACK_ADDRESS[self.family], BROADCAST]
        for number, match in self._matches(Src, Dst, Between, OneOf, InSet):
            match match:
                case Src(network=network) | Dst(network=network) if family_of(network) is self.family:
                    spans[network] = [ends_of(network)]
                case Between(first=first, last=last) if family_of(first) is self.family:
                    spans[first, last] = [(int(first), int(last))]
                case OneOf() if implied_families(match) == (self.family,):
                    spans[id(match)] = address_spans(match)
                case InSet(field=looked_up, name=name) if looked_up not in PORT_FIELDS:
                    spans |= self._looked_up(number, name)
                case _:
                    pass
        for action in self._actions:
            match action:
                case Snat(address=address) | DnatTo(address=address):
                    single.append(address)
                case _:
                    pass
        spans |= {each: [(int(each), int(each))] for each in single if family_of(each) is self.family}
        highest = 2**32 - 1 if self.family is Family.IPV4 else 2**128 - 1
        return cut(spans, [(0, highest)], ADDRESSES[self.family], self.work)

    def _looked_up(self, number: int, name: str) -> dict[Hashable, list[Span]]:
        elements = self.rulesets[number].find_set(name)
        if elements is None or not elements.elements:
            return {}
        if isinstance(elements.elements[0].value, AddressPort):
            if family_of(elements.elements[0].value.address) is not self.family:
                return {}
            return {(number, name, ports): [(each, each) for each in some] for ports, some in pairs(elements).items()}
        spans = [
            ends_of(each.value) for each in elements.elements if not isinstance(each.value, PortRange | AddressPort)
        ]
        first = elements.elements[0].value
        return {(number, name): spans} if family_of_element(first) is self.family else {}

    @cached_property
    def _ports(self) -> dict[Protocol, Atoms[int]]:
        return {}

    def ports(self, protocol: Protocol) -> Atoms[int]:
        """Return the ports of a protocol, cut by whatever asks for either end's."""
        if protocol not in self._ports:
            self._ports[protocol] = self._cut_ports(protocol)
        return self._ports[protocol]

    def _cut_ports(self, protocol: Protocol) -> Atoms[int]:
        spans: dict[Hashable, Sequence[Span]] = {}
        for number, match in self._matches(SrcPort, DstPort, Ports, InSet):
            match match:
                case SrcPort(protocol=asked, ports=ports) | DstPort(protocol=asked, ports=ports) if asked is protocol:
                    spans[ports] = [(ports.first, ports.last)]
                case Ports(protocol=asked, ranges=ranges) if asked is protocol:
                    spans[ranges] = list(joined((each.first, each.last) for each in ranges))
                case InSet(field=looked_up, name=name) if looked_up in PORT_FIELDS | PAIR_FIELDS:
                    spans |= ports_looked_up(number, self.rulesets[number].find_set(name))
                case _:
                    pass
        for action in self._actions:
            match action:
                case Redirect(port=port) | Dnat(port=port) | DnatTo(port=int(port)):
                    spans[port] = [(port, port)]
                case _:
                    pass
        return cut(spans, [(1, 65535)], (*SERVICES, *CLIENTS), self.work)

    @cached_property
    def owners(self) -> dict[Owner, Atoms[int]]:
        """The numbers of users and groups, cut by those asked for, and `NOBODY`."""
        return {owner: self._numbers(owner) for owner in Owner}

    @cached_property
    def marks(self) -> MarkGroups:
        """The bits of marks, in groups that no rule takes apart."""
        return group((match for _, match in self._matches(PacketMark, ConnMark)), self._actions)

    def _numbers(self, owner: Owner) -> Atoms[int]:
        spans: dict[Hashable, list[Span]] = {NOBODY: [(NOBODY, NOBODY)]}
        for _, match in self._matches(SocketUser, SocketOwner):
            match match:
                case SocketUser(user=user) if owner is Owner.USER:
                    spans[user, user] = [(user, user)]
                case SocketOwner(owner=asked, first=first, last=last) if asked is owner:
                    spans[first, last] = [(first, min(last, MOST_USER))]
                case _:
                    pass
        return cut(spans, [(NOBODY, MOST_USER)], USERS, self.work)

    @cached_property
    def interfaces(self) -> Atoms[str]:
        """Names of interfaces, sorted out by the names and beginnings that are asked for; ``lo`` is one."""
        asked = dict.fromkeys(
            match.name for _, match in self._matches(InIface, OutIface) if isinstance(match, InIface | OutIface)
        )
        whole = [name for name in asked if not name.endswith("*")]
        stems = [name[:-1] for name in asked if name.endswith("*")]
        taken = {*whole, "lo"}
        open_ended = []
        for stem in (*stems, ""):
            longer = [each for each in stems if each.startswith(stem) and each != stem]
            free = [
                name
                for name in ([*INTERFACES, *(f"{each}0" for each in "xyzabc")] if not stem else _endings(stem))
                if name not in taken and not any(name.startswith(each) for each in longer)
            ]
            open_ended += free[:3]
        names = tuple(dict.fromkeys(("lo", *open_ended, *whole)))
        tests: dict[Hashable, list[str]] = {
            name: [each for each in names if (each.startswith(name[:-1]) if name[-1:] == "*" else each == name)]
            for name in (*asked, "lo")
        }
        return sort_out(names, tests, open_ended)

    @cached_property
    def flags(self) -> Atoms[tuple[TcpFlag, ...]]:
        """The combinations of TCP flags that there are, sorted out by what is asked of them."""
        tests: dict[Hashable, list[tuple[TcpFlag, ...]]] = {
            "begins": [each for each in FLAGS if begins(each)],
            "resets": [each for each in FLAGS if TcpFlag.RST in each],
        }
        for _, match in self._matches(TcpFlags, NoTcpFlags):
            match match:
                case TcpFlags(among=among, set=wanted):
                    tests[among, wanted] = [each for each in FLAGS if set(each) & set(among) == set(wanted)]
                case NoTcpFlags(among=among):
                    tests[among, ()] = [each for each in FLAGS if not set(each) & set(among)]
                case _:
                    pass
        return sort_out(FLAGS, tests)

    @cached_property
    def cgroups(self) -> Atoms[tuple[int | str, ...]]:
        """The cgroups that a socket can be in, sorted out by those asked for; `()` is that of no socket."""
        asked = dict.fromkeys(
            (match.level, match.cgroup) for _, match in self._matches(SocketCgroup) if isinstance(match, SocketCgroup)
        )
        deepest = max((level for level, _ in asked), default=0)
        ways: list[tuple[int | str, ...]] = [()]
        for level in range(1, deepest + 1):
            here: list[int | str] = [0, *(cgroup for at, cgroup in asked if at == level)]
            ways += [(*way, each) for way in ways if len(way) == level - 1 for each in here if _below(way, each, asked)]
        tests: dict[Hashable, list[tuple[int | str, ...]]] = {
            (level, cgroup): [way for way in ways if level <= len(way) and way[level - 1] == cgroup]
            for level, cgroup in asked
        }
        return sort_out(ways, tests, ways)


def _endings(stem: str) -> Iterator[str]:
    """Yield names that begin so; an interface's is at most 15 characters (IFNAMSIZ)."""
    yield from (f"{stem}{end}"[:15] for end in ("0", "1", "2", "a", "b", "x", "00", "aa"))
    yield stem


def _below(way: tuple[int | str, ...], cgroup: int | str, asked: Iterable[tuple[int, int | str]]) -> bool:
    """Tell whether a cgroup can lie in those above it: a path says which they are, a number doesn't."""
    if isinstance(cgroup, int):
        return True
    parts = cgroup.split("/")
    above = [(level, "/".join(parts[:level])) for level in range(1, len(way) + 1)]
    return all(
        here == named if (level, named) in asked else isinstance(here, int)
        for here, (level, named) in zip(way, above, strict=True)
    )
