"""Rulesets as the text that ``nft -f`` loads (nft(8))."""

from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import assert_never

from rulesets.model import AddressPort, AddressRange, Chain, Count, Counter, Element, RegularChain, Rule, Ruleset, Set
from rulesets.nft.read import action_text, match_text, quoted
from rulesets.vocabulary import (
    FULL_MASK,
    Accept,
    Action,
    Comment,
    ConnMark,
    Continue,
    CtZone,
    Dnat,
    Dst,
    DstPort,
    Foreign,
    InIface,
    InSet,
    Limited,
    LocalAddress,
    LocalSocket,
    Mark,
    Match,
    Network,
    OfFamily,
    OneOf,
    OutIface,
    PacketMark,
    PortRange,
    Proto,
    ReadAction,
    ReadMatch,
    Redirect,
    Reject,
    Sampled,
    SetConnMark,
    SetMark,
    Snat,
    SocketCgroup,
    SocketUser,
    Src,
    SrcPort,
    TcpFlags,
    Trace,
)

# How many elements of a set stand on one line.
_ELEMENTS_A_LINE = 8


def render(ruleset: Ruleset, *, flags: tuple[str, ...] = ()) -> str:
    """Return the ``table`` block that adds the whole ruleset. `flags` are the table's, such as ``owner``.

    What is foreign is shown in parentheses, which nft refuses. As JSON others' rulesets can be loaded whole.
    """
    chains = ruleset.ordered()
    if not ruleset.theirs:
        return render_parts(ruleset.table, ruleset.counters, ruleset.sets, chains, flags=flags)
    lines = [f"table {ruleset.nft_family} {ruleset.table} {{"]
    if flags or ruleset.flags:
        lines.append(f"\tflags {','.join(flags or ruleset.flags)}")
    lines += [f"\t{_remark(ruleset.comment)}"] if ruleset.comment else []
    lines += [f"\t({each.verbatim})" for each in (*ruleset.objects, *ruleset.foreign)]
    lines += _inside(ruleset.counters, ruleset.sets, chains)
    return "\n".join([*lines, "}", ""])


def render_parts(
    table: str,
    counters: tuple[Counter, ...],
    sets: tuple[Set, ...],
    chains: tuple[Chain | RegularChain, ...],
    *,
    flags: tuple[str, ...] = (),
) -> str:
    """Return the ``table`` block that adds these parts to a table, which is made if it isn't there."""
    lines = [f"table inet {table} {{"]
    if flags:
        lines.append(f"\tflags {','.join(flags)}")
    return "\n".join([*lines, *_inside(counters, sets, chains), "}", ""])


def _inside(
    counters: tuple[Counter, ...], sets: tuple[Set, ...], chains: tuple[Chain | RegularChain, ...]
) -> Iterator[str]:
    yield from (f"\t{render_counter(each)}" for each in counters)
    for each in sets:
        yield from ("", *(f"\t{line}" for line in render_set(each)))
    for chain in chains:
        yield from ("", *(f"\t{line}" for line in render_chain(chain)))


def render_counter(counter: Counter) -> str:
    """Return a named counter with what it starts from."""
    start = f" packets {counter.packets} bytes {counter.bytes} " if counter.packets or counter.bytes else " "
    return f"counter {counter.name} {{{start}}}"


def render_set(each: Set) -> Iterator[str]:
    """Yield the lines of a set with its elements."""
    yield f"set {each.name} {{"
    yield f"\ttype {each.key}"
    if each.interval:
        yield "\tflags interval"
    if each.size is not None:
        yield f"\tsize {each.size}"
    if each.comment:
        yield f'\tcomment "{each.comment}"'
    if each.elements:
        shown = [render_element(element) for element in each.elements]
        rows = [", ".join(shown[at : at + _ELEMENTS_A_LINE]) for at in range(0, len(shown), _ELEMENTS_A_LINE)]
        yield "\telements = {"
        yield from (f"\t\t{row}," for row in rows)
        yield "\t}"
    yield "}"


def render_element(element: Element) -> str:
    """Return one element of a set, with its comment."""
    match element.value:
        case PortRange():
            value = str(element.value)
        case AddressPort(address=address, port=port):
            value = f"{address} . {port}"
        case AddressRange(first=first, last=last):
            value = f"{first}-{last}"
        case network:
            value = _network(network)
    return f'{value} comment "{element.comment}"' if element.comment else value


def render_chain(chain: Chain | RegularChain) -> Iterator[str]:
    """Yield the lines of a chain with its rules. Priorities are numbers: nft refuses their names on some hooks."""
    yield f"chain {chain.name} {{"
    if chain.comment:
        yield f"\t{_remark(chain.comment)}"
    if isinstance(chain, Chain):
        yield f"\ttype {chain.type} hook {chain.hook} priority {chain.priority}; policy {chain.policy};"
    yield from (f"\t{render_rule(rule, counted=True)}" for rule in chain.rules)
    yield "}"


def render_rule(rule: Rule, *, counted: bool = False) -> str:
    """Return one rule: matches, its counter, the action, and the slug as its comment.

    A rule with something in parentheses can be shown but not loaded: nft has no words for it, or none that Weir knows.
    `counted` shows what others' rules have counted, so that those that load it go on from there.
    """
    matches, comment = rule.matches, f'"{rule.slug}"' if rule.slug else None
    if comment is None and matches and isinstance(matches[-1], Comment):
        comment = quoted(matches[-1].text)
        matches = matches[:-1] if comment else matches
    words = [*map(render_match, matches), *_counter(rule, counted=counted)]
    if rule.count is None or rule.action != Continue():
        words.append(_action(rule.action))
    return " ".join([*words, *([f"comment {comment}"] if comment else [])]) or "()"


def _remark(text: str) -> str:
    between = quoted(text)
    return f"comment {between}" if between else f"(comment {text!r})"


def _counter(rule: Rule, *, counted: bool) -> tuple[str, ...]:
    match rule.count:
        case None:
            return () if rule.foreign else (f'counter name "{rule.slug}"',)
        case Count(counts=False):
            return ()
        case Count(packets=packets, bytes=size) if counted and (packets or size):
            return (f"counter packets {packets} bytes {size}",)
        case _:
            return ("counter",)


def _network(network: Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)


def _ip(network: Network) -> str:
    return "ip" if network.version == 4 else "ip6"


def _tested(key: str, mark: Mark, unequal: str) -> str:
    masked = key if mark.mask == FULL_MASK else f"{key} & {mark.mask:#x}"
    return f"{masked} {unequal or '== '}{mark.value:#x}"


def _changed(key: str, mark: Mark) -> str:
    if mark.mask == FULL_MASK:
        return f"{key} set {mark.value:#x}"
    return f"{key} set {key} & {~mark.mask & FULL_MASK:#x} | {mark.value:#x}"


def render_match(match: Match) -> str:
    """Return one match as nft writes it."""
    if isinstance(match, ReadMatch):
        return match_text(match)
    unequal = "!= " if getattr(match, "negate", False) else ""
    match match:
        case OfFamily(family=family):
            return f"meta nfproto {family}"
        case Proto(protocol=protocol):
            return f"meta l4proto {unequal}{protocol}"
        case Src(network=network):
            return f"{_ip(network)} saddr {unequal}{_network(network)}"
        case Dst(network=network):
            return f"{_ip(network)} daddr {unequal}{_network(network)}"
        case SrcPort(protocol=protocol, ports=ports):
            return f"{protocol} sport {unequal}{ports}"
        case DstPort(protocol=protocol, ports=ports):
            return f"{protocol} dport {unequal}{ports}"
        case InIface(name=name, by_index=by_index):
            return f'{"iif" if by_index else "iifname"} {unequal}"{name}"'
        case OutIface(name=name, by_index=by_index):
            return f'{"oif" if by_index else "oifname"} {unequal}"{name}"'
        case PacketMark(mark=mark):
            return _tested("meta mark", mark, unequal)
        case ConnMark(mark=mark):
            return _tested("ct mark", mark, unequal)
        case SocketUser(user=user):
            return f"meta skuid {user}"
        case SocketCgroup(level=level, cgroup=int(number)):
            # As nft shows a number that it finds no path for. It loads paths only.
            return f"socket cgroupv2 level {level} {number}"
        case SocketCgroup(level=level, cgroup=path):
            return f'socket cgroupv2 level {level} "{path}"'
        case LocalSocket():
            return "meta skuid >= 0"
        case LocalAddress():
            return f"fib daddr type {unequal}local"
        case InSet(field=field, name=name):
            return f"{field} {unequal}@{name}"
        case TcpFlags(among=among, set=wanted):
            return f"tcp flags & ({'|'.join(among)}) {unequal or '== '}{'|'.join(wanted)}"
        case Sampled(one_in=number):
            return f"numgen random mod {number} 0"
        case Limited(per_second=number, burst=burst):
            return f"limit rate {number}/second burst {burst} packets"
        case OneOf(matches=matches):
            # Each is the field and one value; no value has a space.
            parts = [render_match(each).rpartition(" ") for each in matches]
            asked, values = parts[0][0].removesuffix(" =="), ", ".join(value for *_, value in parts)
            return f"{asked} {unequal or ('== ' if '&' in asked else '')}{{ {values} }}"
        case Foreign(verbatim=verbatim):
            return f"({verbatim})"
        case _:
            assert_never(match)


def _action(action: Action) -> str:
    if isinstance(action, ReadAction):
        return action_text(action)
    match action:
        case Accept():
            return "accept"
        case Redirect(port=port):
            return f"redirect to :{port}"
        case Dnat(port=port):
            return f"dnat to :{port}"
        case Snat(address=address):
            return f"snat {'ip' if isinstance(address, IPv4Address) else 'ip6'} to {address}"
        case SetMark(mark=mark):
            return _changed("meta mark", mark)
        case SetConnMark(mark=mark):
            return _changed("ct mark", mark)
        case CtZone(zone=zone):
            return f"ct original zone set {zone}"
        case Reject(reply=reply):
            return f"reject with {reply}"
        case Trace():
            return "meta nftrace set 1"
        case Foreign(verbatim=verbatim):
            return f"({verbatim})"
        case _:
            assert_never(action)
