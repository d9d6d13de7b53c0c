"""What the rules of both sides mention of each header field, and the atoms that come of it."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from rulesets.equivalence.anonymous import address_spans, is_of_addresses
from rulesets.equivalence.atoms import Atoms, Span, cut, joined, sort_out
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
from rulesets.model import AddressPort, AddressRange, Rule, Ruleset, Set, implied_families
from rulesets.vocabulary import (
    Action,
    Between,
    Dnat,
    DnatTo,
    Dst,
    DstPort,
    Family,
    InIface,
    InSet,
    Match,
    Network,
    NoTcpFlags,
    OneOf,
    OutIface,
    Owner,
    PortRange,
    Ports,
    Protocol,
    Redirect,
    SetField,
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
    """The rules in force for one family and protocol, by the number of their ruleset."""

    rulesets: tuple[Ruleset, ...]
    family: Family
    protocol: Protocol

    def rules(self) -> Iterator[tuple[int, Rule]]:
        """Yield every rule that a packet of the family could meet."""
        for number, ruleset in enumerate(self.rulesets):
            if ruleset.family in (None, self.family):
                for rule in ruleset.rules():
                    yield number, rule

    def matches(self) -> Iterator[tuple[int, Match]]:
        """Yield every match of theirs, those of anonymous sets one by one, but of addresses there may be many."""
        for number, rule in self.rules():
            for match in rule.matches:
                for each in match.matches if isinstance(match, OneOf) and not is_of_addresses(match) else (match,):
                    yield number, each

    def actions(self) -> Iterator[Action]:
        """Yield every action of theirs."""
        for _, rule in self.rules():
            yield rule.action

    @cached_property
    def addresses(self) -> Atoms[int]:
        """The addresses of the family, cut by whatever asks for either end's."""
        of_family = [LOOPBACK[self.family], MULTICAST[self.family], UNSPECIFIED[self.family]]
        spans: dict[Hashable, Sequence[Span]] = {each: [_ends(each)] for each in of_family}
        single = [LOOPBACK_ADDRESS[self.family], BROADCAST]
        for number, match in self.matches():
            match match:
                case Src(network=network) | Dst(network=network) if family_of(network) is self.family:
                    spans[network] = [_ends(network)]
                case Between(first=first, last=last) if family_of(first) is self.family:
                    spans[first, last] = [(int(first), int(last))]
                case OneOf() if implied_families(match) == (self.family,):
                    spans[id(match)] = address_spans(match)
                case InSet(field=field, name=name) if field not in _PORT_FIELDS:
                    spans |= self._looked_up(number, name)
                case _:
                    pass
        for action in self.actions():
            match action:
                case Snat(address=address) | DnatTo(address=address):
                    single.append(address)
                case _:
                    pass
        spans |= {each: [(int(each), int(each))] for each in single if family_of(each) is self.family}
        highest = 2**32 - 1 if self.family is Family.IPV4 else 2**128 - 1
        return cut(spans, [(0, highest)], ADDRESSES[self.family])

    def _looked_up(self, number: int, name: str) -> dict[Hashable, list[Span]]:
        elements = self.rulesets[number].find_set(name)
        if elements is None or not elements.elements:
            return {}
        if isinstance(elements.elements[0].value, AddressPort):
            if family_of(elements.elements[0].value.address) is not self.family:
                return {}
            return {(number, name, ports): [(each, each) for each in some] for ports, some in pairs(elements).items()}
        spans = [_ends(each.value) for each in elements.elements if not isinstance(each.value, PortRange | AddressPort)]
        first = elements.elements[0].value
        return {(number, name): spans} if _family(first) is self.family else {}

    @cached_property
    def ports(self) -> Atoms[int]:
        """The ports, cut by whatever asks for either end's."""
        spans: dict[Hashable, Sequence[Span]] = {}
        for number, match in self.matches():
            match match:
                case SrcPort(protocol=self.protocol, ports=ports) | DstPort(protocol=self.protocol, ports=ports):
                    spans[ports] = [(ports.first, ports.last)]
                case Ports(protocol=self.protocol, ranges=ranges):
                    spans[ranges] = list(joined((each.first, each.last) for each in ranges))
                case InSet(field=field, name=name) if field in _PORT_FIELDS | _PAIR_FIELDS:
                    spans |= _looked_up_ports(number, self.rulesets[number].find_set(name))
                case _:
                    pass
        for action in self.actions():
            match action:
                case Redirect(port=port) | Dnat(port=port) | DnatTo(port=int(port)):
                    spans[port] = [(port, port)]
                case _:
                    pass
        return cut(spans, [(1, 65535)], (*SERVICES, *CLIENTS))

    @cached_property
    def owners(self) -> dict[Owner, Atoms[int]]:
        """The numbers of users and groups, cut by those asked for, and `NOBODY`."""
        return {owner: self._numbers(owner) for owner in Owner}

    @cached_property
    def marks(self) -> MarkGroups:
        """The bits of marks, in groups that no rule takes apart."""
        return group((match for _, match in self.matches()), self.actions())

    def _numbers(self, owner: Owner) -> Atoms[int]:
        spans: dict[Hashable, list[Span]] = {NOBODY: [(NOBODY, NOBODY)]}
        for _, match in self.matches():
            match match:
                case SocketUser(user=user) if owner is Owner.USER:
                    spans[user, user] = [(user, user)]
                case SocketOwner(owner=asked, first=first, last=last) if asked is owner:
                    spans[first, last] = [(first, min(last, MOST_USER))]
                case _:
                    pass
        return cut(spans, [(NOBODY, MOST_USER)], USERS)

    @cached_property
    def interfaces(self) -> Atoms[str]:
        """Names of interfaces, sorted out by the names and beginnings that are asked for; ``lo`` is one."""
        asked = dict.fromkeys(match.name for _, match in self.matches() if isinstance(match, InIface | OutIface))
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
        for _, match in self.matches():
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
            (match.level, match.cgroup) for _, match in self.matches() if isinstance(match, SocketCgroup)
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


_PORT_FIELDS = frozenset({SetField.TCP_DST_PORT})
_PAIR_FIELDS = frozenset({SetField.DST_V4_TCP_DST_PORT, SetField.DST_V6_TCP_DST_PORT})


def pairs(elements: Set) -> dict[tuple[int, ...], list[int]]:
    """Return the addresses of a set of addresses with ports, by the ports that they stand with."""
    ports: dict[int, set[int]] = {}
    for element in elements.elements:
        if isinstance(element.value, AddressPort):
            ports.setdefault(int(element.value.address), set()).add(element.value.port)
    alike: dict[tuple[int, ...], list[int]] = {}
    for address, some in ports.items():
        alike.setdefault(tuple(sorted(some)), []).append(address)
    return alike


def _looked_up_ports(number: int, elements: Set | None) -> dict[Hashable, list[Span]]:
    if elements is None:
        return {}
    found: dict[Hashable, list[Span]] = {
        (number, elements.name, ports): [(each, each) for each in ports] for ports in pairs(elements)
    }
    ranges = [(each.value.first, each.value.last) for each in elements.elements if isinstance(each.value, PortRange)]
    return found | ({(number, elements.name): ranges} if ranges else {})


def _ends(value: Network | AddressRange) -> Span:
    if isinstance(value, AddressRange):
        return int(value.first), int(value.last)
    return int(value.network_address), int(value.broadcast_address)


def _family(value: object) -> Family | None:
    match value:
        case AddressRange(first=first):
            return family_of(first)
        case PortRange() | AddressPort():
            return None
        case network:
            return family_of(network)  # type: ignore[arg-type]


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
