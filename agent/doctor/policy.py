"""Policy rules and routes of others that take what carries Weir's marks, or stand where Weir's are to go."""

from collections.abc import Iterable, Iterator, Mapping

from agent.doctor.findings import Finding, Level
from agent.kernel.policy_rules import GOTO, LOOKUP, NOTHING, TABLE_LOCAL, RuleEntry
from agent.kernel.routing_messages import PROTOCOL
from rulesets.capture import Capture
from rulesets.routing import OtherRoutes
from rulesets.vocabulary import Family, Mark

Tables = Mapping[tuple[Family, int], bool]


def judge(
    rules: Iterable[RuleEntry], others: Iterable[OtherRoutes], capture: Capture, tables: Tables
) -> Iterator[Finding]:
    """Yield what collides with a capture. Rules of another agent that do just what Weir's do are no collision here.

    `tables` are those that hold routes, each with whether one is for everything.
    """
    theirs = [each for each in rules if each.protocol != PROTOCOL and not is_twin(each, capture)]
    if capture.inbound:
        for rule in theirs:
            yield from _takes_replies(rule, capture, tables)
            yield from _uses_table(rule, capture)
        yield from _tables(others, capture)
    for rule in theirs:
        by_mark = rule.mask & capture.proxy_mark.mask and not rule.inverted
        if by_mark and rule.action not in (GOTO, NOTHING) and may_meet(rule, capture.proxy_mark):
            yield Finding(
                check="mark-collision",
                level=Level.ERROR,
                what=f"{rule}: it chooses packets by bits of the proxy's mark {capture.proxy_mark}",
                why="what the proxy sends is routed by that rule, and not as the namespace's own traffic is",
                do="give one of both another mark (the setting proxy_mark; the proxy must set it, too)",
            )


def is_twin(rule: RuleEntry, capture: Capture) -> bool:
    """Tell whether a rule of somebody else's is just the one that Weir makes: another agent for the same traffic."""
    mark = capture.connection_mark
    plain = not (rule.source or rule.destination or rule.in_interface or rule.out_interface or rule.selects)
    same = (rule.mark, rule.mask, rule.table) == (mark.value, mark.mask, capture.route_table)
    return plain and same and not rule.inverted and rule.action == LOOKUP


def may_meet(rule: RuleEntry, mark: Mark) -> bool:
    """Tell whether a rule is met by some packet that carries a mark, whatever else the rule asks for."""
    shared = rule.mask & mark.mask
    # Of the bits that aren't Weir's nothing is known; they are taken for zero, as they are where nobody else marks.
    meets = (rule.mark ^ mark.value) & shared == 0 and not rule.mark & ~mark.mask
    if rule.inverted:
        # "not fwmark X": met by every packet that isn't marked so; by one with this mark unless that is all of X.
        return not (meets and rule.mask and _asks_mark_only(rule))
    return meets


def _asks_mark_only(rule: RuleEntry) -> bool:
    return not (rule.source or rule.destination or rule.in_interface or rule.out_interface or rule.selects)


def _takes_replies(rule: RuleEntry, capture: Capture, tables: Tables) -> Iterator[Finding]:
    before = rule.priority < capture.rule_priority or (rule.priority == capture.rule_priority and bool(rule.mask))
    # Rules for what arrives or is bound to an interface don't meet what local sockets send, but for `lo`.
    elsewhere = rule.in_interface not in ("", "lo")
    harmless = rule.action in (GOTO, NOTHING) or (rule.action == LOOKUP and rule.table == TABLE_LOCAL)
    if not before or elsewhere or harmless or not may_meet(rule, capture.connection_mark):
        return
    by_mark = rule.mask & capture.connection_mark.mask and not rule.inverted
    everything = rule.action != LOOKUP or tables.get((rule.family, rule.table))
    if everything is None:
        return  # a table without a route: the kernel goes on to the next rule
    narrow = bool(rule.source or rule.destination or rule.out_interface or rule.selects or rule.suppresses)
    some = narrow or not everything
    yield Finding(
        check="mark-collision" if by_mark else "rule-order",
        level=Level.WARNING if some and not by_mark else Level.ERROR,
        what=f"{rule}: it comes before Weir's rule {capture.rule_priority} for {capture.connection_mark}",
        why=("some of the" if some else "the")
        + " answers to captured inbound connections are routed by it, and never come back to the proxy",
        do="give one of both another mark (the setting connection_mark)"
        if by_mark
        else f"let that rule come later, or let rule_priority be a free number below {rule.priority}",
        command="" if by_mark or rule.priority < 2 else f"weir apply --set rule_priority={rule.priority - 1}",
    )


def _uses_table(rule: RuleEntry, capture: Capture) -> Iterator[Finding]:
    if rule.action == LOOKUP and rule.table == capture.route_table:
        yield Finding(
            check="table-collision",
            level=Level.ERROR,
            what=f"{rule}: somebody else looks up the route table that Weir is to use",
            why="Weir's one route there delivers everything locally: what that rule chooses would not leave any more",
            do="let route_table name a table that nobody uses",
            command=f"weir apply --set route_table={_another(capture.route_table)}",
        )


def _tables(others: Iterable[OtherRoutes], capture: Capture) -> Iterator[Finding]:
    for each in others:
        ip = "ip" if each.family is Family.IPV4 else "ip -6"
        yield Finding(
            check="table-collision",
            level=Level.ERROR,
            what=f"route table {each.table} holds routes of somebody else (`{ip} route show table {each.table}`,"
            f" protocol {each.protocol})",
            why="Weir refuses to write there, so the target isn't captured",
            do="let route_table name a table that nobody uses; `weir migrate` takes over another agent's",
            command=f"weir apply --set route_table={_another(capture.route_table)}",
        )


def _another(table: int) -> int:
    return table + 10_000  # far from what people number by hand, and from the kernel's own 253 to 255
