"""What stands beside the rules: policy rules and routes, listeners, families, connection tracking, marks."""

from agent.doctor import Finding, Level
from agent.doctor.conntrack import FULL
from agent.doctor.ports import proxy_ports
from agent.explain.explanation import Grade, Standing, Topic
from agent.explain.facts import Facts
from agent.explain.mending import again, apply, inside
from agent.flows.look import words
from agent.inspection import Inspection
from agent.kernel.ipv6 import Ipv6
from agent.words import counted
from rulesets.routing import LocalRoute, PolicyRule
from rulesets.vocabulary import Family

_COLLISIONS = ("rule-order", "table-collision")
_MOST = 10
_PROXY = "start the proxy there"


def routing(facts: Facts, looked: Inspection) -> Topic:
    """Return how policy rules and routes stand, Weir's own and those of others that come before."""
    plan = looked.plan.routing
    lacking = (*plan.added.rules, *plan.added.routes)
    collisions = [each for each in facts.findings if each.check in _COLLISIONS]
    wanted = tuple(map(str, (*plan.desired.rules, *plan.desired.routes)))
    values: dict[str, object] = {
        "wanted": list(wanted),
        "missing": [str(each) for each in lacking],
        "surplus": [str(each) for each in (*plan.removed.rules, *plan.removed.routes)],
        "rules": [str(each) for each in facts.rules],
    }
    if plan:
        surplus = (*plan.removed.rules, *plan.removed.routes)
        named = [*(f"{_kind(each)} `{each}` is missing" for each in lacking)]
        named += [f"`{each}` is there, and isn't wanted" for each in surplus]
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        return Topic(
            name="routing",
            standing=Standing.NOT,
            said=f"{len(lacking)} missing, {len(surplus)} too many",
            more=tuple(named[:_MOST]),
            cause=f"{named[0]}{more}" + (", so answers of captured inbound connections are lost" if lacking else ""),
            grade=Grade.SOME,
            mend=again(facts),
            command=apply(facts),
            facts=values,
        )
    if collisions:
        return _of_finding("routing", collisions[0], values, grade=Grade.SOME)
    if not plan.desired.rules:
        return Topic(name="routing", standing=Standing.OK, said="needs no rules or routes", facts=values)
    said = f"{counted(len(plan.desired.rules), 'rule')} and {counted(len(plan.desired.routes), 'route')} as wanted"
    return Topic(name="routing", standing=Standing.OK, said=said, more=wanted, facts=values)


def _kind(each: object) -> str:
    return "the policy rule" if isinstance(each, PolicyRule) else "the route" if isinstance(each, LocalRoute) else "the"


def _of_finding(name: str, found: Finding, values: dict[str, object], *, grade: Grade) -> Topic:
    return Topic(
        name=name,
        standing=Standing.NOT if found.level is Level.ERROR else Standing.DOUBT,
        said=found.what,
        more=(found.why,),
        cause=found.what,
        grade=grade,
        mend=f"`{found.command}`: {found.do}" if found.command else found.do,
        command=found.command,
        facts=values,
    )


def listeners(facts: Facts, lacking: str) -> Topic:
    """Return who listens on the proxy's ports; `lacking` says where nobody does."""
    settings = {port: name for name, port in proxy_ports(facts.capture).items()}
    lines = tuple(f"{each} ({settings[each.port]})" for each in facts.listening if each.protocol == "tcp")
    values = {
        "ports": {name: port for port, name in settings.items()},
        "listening": [
            {
                "setting": settings[each.port],
                "protocol": each.protocol,
                "address": str(each.address),
                "port": each.port,
                "processes": [{"pid": one.number, "name": one.name} for one in each.processes],
            }
            for each in facts.listening
        ],
        "lacking": lacking,
    }
    if not lacking:
        who = ", ".join(dict.fromkeys(each.who for each in facts.listening if each.protocol == "tcp"))
        said = f"{who or 'nobody'} listens on the proxy's ports"
        return Topic(name="listeners", standing=Standing.OK, said=said, more=lines, facts=values)
    start = (
        _PROXY if "over" not in lacking else "let the proxy listen there too, or narrow `families` to what it serves"
    )
    return Topic(
        name="listeners",
        standing=Standing.NOT,
        said=lacking,
        more=lines,
        cause=lacking,
        grade=Grade.SOME if "over" in lacking else Grade.ALL,
        mend=f"{start} ({facts.target.name}): {lacking}",
        facts=values,
    )


def families(facts: Facts, looked: Inspection) -> Topic:
    """Return which address families are captured."""
    check = next((each for each in looked.checks if each.name == "families"), None)
    wanted = facts.capture.captured_families
    values = {"ipv6": str(facts.ipv6), "wanted": [str(each) for each in wanted]}
    wants_v6 = facts.wanted and Family.IPV6 in wanted
    if facts.ipv6 in (Ipv6.OFF, Ipv6.OFF_ON_LOOPBACK) and wants_v6:
        partly = facts.ipv6 is Ipv6.OFF_ON_LOOPBACK
        interface = "lo" if partly else "all"
        said = f"IPv6 is {facts.ipv6} (disable_ipv6)"
        does = check.said if check is not None and partly else "nothing of it is there to be captured"
        routing_plan = looked.plan.routing
        left = next((each for each in (*routing_plan.removed.rules, *routing_plan.removed.routes)), None)
        command = f"{inside(facts)}sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0"
        return Topic(
            name="families",
            standing=Standing.NOT if partly or left else Standing.NOTE,
            said=f"{said}: {does}",
            cause=f"{said}, so its connections can't be captured" if partly else f"{said}, and `{left}` is still there",
            grade=Grade.SOME,
            mend=f'`{command}` brings IPv6 back, or capture IPv4 alone (families = ["ipv4"])',
            command=command,
            facts=values,
        )
    if check is not None and not check.holds:
        mend = 'let `families` name it too, or refuse it (uncapturable = "reject")'
        return Topic(
            name="families",
            standing=Standing.NOT,
            said=check.said,
            cause=check.said,
            grade=Grade.SOME,
            mend=mend,
            facts=values,
        )
    said = check.said if check is not None else f"IPv6 is {facts.ipv6}"
    return Topic(name="families", standing=Standing.OK, said=f"{said}; IPv6 is {facts.ipv6}", facts=values)


def tracking(facts: Facts) -> Topic:
    """Return how full connection tracking is, what is open, and which streams are about to break."""
    stats, found = facts.tracked.stats, facts.tracked.look
    if stats is None or found is None:
        return Topic(name="conntrack", standing=Standing.NOTE, said="this kernel doesn't tell of it over netlink")
    lost = {name: getattr(stats, name) for name in ("drops", "early_drops", "insert_failed", "invalid")}
    peers = facts.tracked.peers
    values = {
        "entries": stats.entries,
        "maximum": stats.maximum,
        "states": dict(found.states),
        "captured": found.captured,
        "direct": found.direct,
        "lost": lost,
        "expiring": [str(each) for each in found.expiring],
        "peers": [{"address": str(each.address), "entries": each.entries, "bytes": each.bytes} for each in peers],
    }
    of = f" of {stats.maximum}" if stats.maximum else ""
    more = list(words(found)[: _MOST + 1]) if stats.entries else []
    more += [f"most entries: {each}" for each in peers]
    named = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in lost.items() if number)
    more += [f"counted since the namespace was made: {named}"] if named else []
    said = f"{stats.entries}{of} entries"
    full = bool(stats.maximum) and stats.entries >= FULL * (stats.maximum or 0)
    if full:
        command = f"sysctl -w net.netfilter.nf_conntrack_max={2 * (stats.maximum or 0)}"
        cause = f"connection tracking is full ({stats.entries}{of} entries): new connections are dropped"
        mend = f"`{command}` on the node raises the limit"
    elif found.expiring:
        command = f"{inside(facts)}sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=432000"
        cause = f"{counted(len(found.expiring), 'idle stream')} will soon lose what carries them"
        mend = f"`{command}` gives streams five days of silence, or have their ends send keepalives"
    else:
        command = cause = mend = ""
    return Topic(
        name="conntrack",
        standing=Standing.NOT if full else Standing.DOUBT if found.expiring else Standing.OK,
        said=said,
        more=tuple(more),
        cause=cause,
        grade=Grade.SOME,
        mend=mend,
        command=command,
        facts=values,
    )


def marks(facts: Facts) -> Topic:
    """Return whether rules of others touch Weir's marks."""
    found = [each for each in facts.findings if each.check == "mark-collision"]
    if not found:
        return Topic(name="marks", standing=Standing.OK, said="no rule of others sets or asks for Weir's marks")
    return _of_finding("marks", found[0], {"collisions": [each.document() for each in found]}, grade=Grade.SOME)
