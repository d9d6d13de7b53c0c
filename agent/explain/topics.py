"""What was seen, topic by topic: whether it is as wanted, what it means for the whole, and what mends it."""

from collections.abc import Iterator

from agent import enrol
from agent.drift import Kind
from agent.errors import WeirError
from agent.explain.around import families, listeners, marks, routing, tracking
from agent.explain.explanation import Explanation, Grade, Standing, Topic, explanation
from agent.explain.facts import Facts
from agent.explain.live import Live
from agent.explain.mending import again, apply, inside
from agent.explain.rule_changes import told_changes
from agent.explain.wanted import change, eligibility
from agent.inspection import Inspection
from agent.rivals import summary
from agent.targets import Rival, State
from agent.words import counted
from rulesets.capture import ProxyAbsent

_COLLISIONS = ("rule-order", "table-collision")
_MOST = 10
_PROXY = "start the proxy there"


def explain(facts: Facts) -> Explanation:
    """Return what facts come to."""
    return explanation(facts.target.name, facts.target.netns, tuple(_topics(facts)))


def _topics(facts: Facts) -> Iterator[Topic]:
    yield eligibility(facts)
    yield _namespace(facts)
    looked = facts.looked
    if isinstance(looked, WeirError):
        yield _unlooked(facts, looked)
        yield listeners(facts, "")
        return
    yield families(facts, looked)
    yield _rules(facts, looked)
    if facts.wanted:
        yield _rivals(facts, looked)
        yield routing(facts, looked)
        lacking = (each.said for each in looked.checks if each.name == "proxy" and not each.holds)
        yield listeners(facts, next(lacking, ""))
        yield marks(facts)
    yield tracking(facts)
    yield _streams(facts, looked)
    yield _daemon(facts)
    yield change(facts)


def _unlooked(facts: Facts, error: WeirError) -> Topic:
    said = str(error).partition("\n")[0]
    return Topic(name="capture", standing=Standing.NOT, said=said, cause=said, mend=error.hint or again(facts))


def _namespace(facts: Facts) -> Topic:
    processes = facts.processes
    some = ", ".join(f"{each.name} (pid {each.number})" for each in processes[:3])
    lives = f"; {counted(len(processes), 'process').replace('processs', 'processes')}: {some}" if processes else ""
    lives += ", ..." if len(processes) > 3 else ""
    where = f"{facts.target.netns}, " if facts.target.netns != facts.target.name else ""
    return Topic(
        name="namespace",
        standing=Standing.NOTE if facts.before else Standing.OK,
        said=f"{where}inode {facts.identity.inode}, cookie {facts.cookie}{lives}",
        more=("it is another one than Weir captured under that name: it was made anew",) if facts.before else (),
        facts={
            "netns": facts.target.netns,
            "device": facts.identity.device,
            "inode": facts.identity.inode,
            "cookie": facts.cookie,
            "replaced": facts.before,
            "processes": [{"pid": each.number, "name": each.name} for each in processes],
        },
    )


def _rules(facts: Facts, looked: Inspection) -> Topic:
    plan = looked.plan.rules
    name = f"inet {plan.table or facts.target.table}"
    owner = f", owned by {looked.owner}" if looked.owner else ""
    changes = plan.describe().splitlines()
    values: dict[str, object] = {
        "table": facts.target.table,
        "there": plan.actual is not None,
        "equal": not plan,
        "changes": changes,
        "owner": looked.owner,
        "counters": {each.name: each.packets for each in looked.counters if each.packets},
    }
    if not facts.wanted:
        there = plan.actual is not None
        said = f"table {name} is still there{owner}" if there else "no table of Weir's is there, and none is wanted"
        return Topic(name="rules", standing=Standing.NOTE, said=said, facts=values)
    if not plan and plan.actual is not None:
        rules = sum(1 for _ in plan.actual.rules())
        counted_by = [each for each in looked.counters if each.name.endswith("-redirect") and each.packets]
        used = ", ".join(f"{each.name} {each.packets}" for each in counted_by)
        said = f"{name} is as wanted: {counted(rules, 'rule')}{f'; connections: {used}' if used else ''}{owner}"
        return Topic(name="rules", standing=Standing.OK, said=said, facts=values)
    whole = plan.actual is not None and enrol.redirects(plan.actual)
    lacking = next((each.said for each in looked.checks if each.name == "proxy" and not each.holds), "")
    awaited = lacking if not whole and facts.capture.when_proxy_absent is ProxyAbsent.WAIT else ""
    told = told_changes(plan)
    anew = plan.actual is None and facts.before
    cause = f"its namespace was made anew, and {told}" if anew else told
    return Topic(
        name="rules",
        standing=Standing.NOT,
        said=f"{told}{owner}",
        more=tuple(changes[: 2 * _MOST]) if plan.actual is not None else (),
        cause=facts.word.waits or cause,
        grade=Grade.SOME if whole else Grade.ALL,
        mend=f"{_PROXY} first, since {awaited}; then {again(facts)}" if awaited else again(facts),
        command="" if awaited else apply(facts),
        facts=values,
    )


def _rivals(facts: Facts, looked: Inspection) -> Topic:
    found = looked.rivals
    values = {
        "rivals": [
            {"certain": each.certain, "place": each.place, "rule": each.rule, "packet": each.packet, "fate": each.fate}
            for each in found
        ]
    }
    if not found:
        return Topic(
            name="rivals", standing=Standing.OK, said="no rule of others changes what is captured", facts=values
        )
    certain = [each for each in found if each.certain]
    made = [each for each in facts.word.drifts if each.kind in (Kind.FOREIGN_CHAIN, Kind.LEGACY_RULES)]
    by = f"; made by {made[-1].culprit}" if made and made[-1].culprit is not None else ""
    first = certain[0] if certain else found[0]
    command = _deletion(facts, facts.live, first)
    return Topic(
        name="rivals",
        standing=Standing.NOT if certain else Standing.DOUBT,
        said=f"{summary(found)}{by}",
        more=tuple(map(str, found[1 : _MOST + 1])),
        cause=f"{first}{by}",
        grade=Grade.SOME,
        mend=f"`{command}` takes that rule away, if its owner can do without it"
        if command
        else "take that rule away, or put it behind Weir's (after -100)",
        command=command,
        facts=values,
    )


def _deletion(facts: Facts, live: Live, rival: Rival) -> str:
    for each in live.tables:
        rest = rival.place.removeprefix(f"{each.place}, ")
        chain, _, number = rest.rpartition(", rule ")
        if rest != rival.place and number.isdigit():
            return f"{inside(facts)}{each.deletion(chain, int(number))}"
    return ""


def _streams(facts: Facts, looked: Inspection) -> Topic:
    said = f"{counted(len(looked.captured), 'stream')} captured, {len(looked.kept)} outside since before"
    draining = looked.state is State.DRAINING
    return Topic(
        name="streams",
        standing=Standing.NOT if draining and facts.wanted else Standing.NOTE,
        said=f"{said}; {looked.reason}" if draining else said,
        more=tuple(f"outside: {each}" for each in looked.kept[:_MOST]),
        cause=f"it is being released: {looked.reason}" if draining else "",
        mend=again(facts),
        command=apply(facts),
        facts={"captured": len(looked.captured), "outside": [str(each) for each in looked.kept]},
    )


def _daemon(facts: Facts) -> Topic:
    word = facts.word
    if word.waits and facts.wanted:
        as_before = word.stays and isinstance(facts.looked, Inspection) and facts.looked.captured_as_wanted
        standing = Standing.DOUBT if as_before else Standing.NOT
        return Topic(name="last error", standing=standing, said=word.waits, cause=word.waits, mend=word.mend)
    if not word.daemon:
        return Topic(name="last error", standing=Standing.NOTE, said="not known: no daemon keeps it")
    return Topic(
        name="last error",
        standing=Standing.NOTE,
        said=word.error or "none: the daemon keeps it",
        facts={"error": word.error},
    )
