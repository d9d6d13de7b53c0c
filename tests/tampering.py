"""Ways in which somebody may have changed our table, done to nft's listing of it."""

import copy
import json
from collections.abc import Callable
from typing import Any

from rulesets import nft
from tests import scenarios

__all__ = ["RULESET", "TABLE", "TAMPERED", "Objects", "add", "listing"]

RULESET = scenarios.load("exclusions").ruleset
TABLE = RULESET.table
Objects = list[dict[str, Any]]


def listing() -> Objects:
    """Return our table as nft lists it, one object for each thing, with handles."""
    objects: Objects = json.loads(nft.render_json(RULESET))["nftables"]
    for number, each in enumerate(objects):
        next(iter(each.values()))["handle"] = number
    return [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}}, *objects]


def rule_of(objects: Objects, slug: str) -> dict[str, Any]:
    """Return the body of the first rule with this comment."""
    found: dict[str, Any] = next(each["rule"] for each in objects if each.get("rule", {}).get("comment") == slug)
    return found


def add(kind: str, **body: Any) -> Callable[[Objects], None]:
    return lambda objects: objects.append({kind: {"family": "inet", "table": TABLE, "handle": 999, **body}})


def add_rule(*expressions: dict[str, Any], chain: str = "nat-out", **rest: Any) -> Callable[[Objects], None]:
    return add("rule", chain=chain, expr=list(expressions), **rest)


def change_rule(slug: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Objects], None]:
    return lambda objects: change(rule_of(objects, slug))


def change_object(kind: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Objects], None]:
    return lambda objects: change(next(each[kind] for each in objects if kind in each))


def drop(kind: str) -> Callable[[Objects], None]:
    return lambda objects: objects.remove(next(each for each in objects if kind in each))


def swap_rules(objects: Objects) -> None:
    first, second = [at for at, each in enumerate(objects) if each.get("rule", {}).get("chain") == "nat-out"][:2]
    objects[first], objects[second] = objects[second], objects[first]


ACCEPT: dict[str, Any] = {"accept": None}
COUNTER: dict[str, Any] = {"counter": "outbound-loopback"}
PORT: dict[str, Any] = {"payload": {"protocol": "tcp", "field": "dport"}}
REDIRECT = "outbound-redirect"

# What was done to our table, and a word of it that a user must find in the difference.
TAMPERED: dict[str, tuple[Callable[[Objects], None], str]] = {
    "a foreign expression": (add_rule({"limit": {"rate": 5, "per": "second"}}, ACCEPT), "limit"),
    "a log statement": (add_rule({"log": {"prefix": "seen"}}), "seen"),
    "a verdict map": (add_rule({"vmap": {"key": PORT, "data": {"set": [[1, ACCEPT]]}}}), "vmap"),
    "an anonymous set": (add_rule({"match": {"op": "==", "left": PORT, "right": {"set": [1, 2]}}}, ACCEPT), "dport"),
    "an operator of flags": (add_rule({"match": {"op": "in", "left": PORT, "right": 1}}, ACCEPT), "in"),
    "a jump": (add_rule({"jump": {"target": "elsewhere"}}), "elsewhere"),
    "an empty rule": (add_rule(), "nothing"),
    "a drop": (add_rule(COUNTER, {"drop": None}, comment="outbound-loopback"), "drop"),
    "a rule of our kind without comment": (add_rule(ACCEPT), "accept"),
    "a rule once more": (lambda objects: objects.append(copy.deepcopy(objects[-1])), REDIRECT),
    "a rule with its own counter": (
        change_rule(REDIRECT, lambda rule: rule["expr"].insert(0, {"counter": {"packets": 0, "bytes": 0}})),
        "packets",
    ),
    "a rule without counter": (
        change_rule(REDIRECT, lambda rule: rule["expr"].remove({"counter": REDIRECT})),
        "counter",
    ),
    "a rule counted elsewhere": (change_rule(REDIRECT, lambda rule: rule["expr"].__setitem__(-2, COUNTER)), REDIRECT),
    "a rule counted before it matches": (
        change_rule(REDIRECT, lambda rule: rule["expr"].insert(0, rule["expr"].pop(-2))),
        REDIRECT,
    ),
    "two actions": (change_rule(REDIRECT, lambda rule: rule["expr"].insert(-1, ACCEPT)), "accept"),
    "another comment": (change_rule(REDIRECT, lambda rule: rule.update(comment="outbound-other")), "outbound-other"),
    "no comment": (change_rule(REDIRECT, lambda rule: rule.pop("comment")), REDIRECT),
    "another port": (
        change_rule(REDIRECT, lambda rule: rule["expr"][-1]["redirect"].update(port=1)),
        "redirect to :1 ",
    ),
    "a redirect with flags": (
        change_rule(REDIRECT, lambda rule: rule["expr"][-1]["redirect"].update(flags="random")),
        "random",
    ),
    "a redirect to many ports": (
        change_rule(REDIRECT, lambda rule: rule["expr"][-1]["redirect"].update(port={"range": [1, 9]})),
        "range",
    ),
    "a destination elsewhere": (
        change_rule("inbound-redirect", lambda rule: rule["expr"][-1]["dnat"].update(addr="192.0.2.1", family="ip")),
        "192.0.2.1",
    ),
    "another mark": (change_rule("outbound-from-proxy", lambda rule: rule["expr"][0]["match"].update(right=1)), "0x1"),
    "a comparison turned": (
        change_rule("outbound-from-proxy", lambda rule: rule["expr"][0]["match"].update(op="!=")),
        "!=",
    ),
    "a comparison of size": (
        change_rule("outbound-from-proxy", lambda rule: rule["expr"][0]["match"].update(op="<")),
        "<",
    ),
    "a mark written another way": (
        change_rule("reply-to-proxy", lambda rule: rule["expr"][-1]["mangle"].update(value={"ct": {"key": "mark"}})),
        "mangle",
    ),
    "a zone both ways": (
        change_rule("dns-zone", lambda rule: rule["expr"][-1]["mangle"]["key"]["ct"].pop("dir")),
        "zone",
    ),
    "an attribute of a rule": (change_rule(REDIRECT, lambda rule: rule.update(index=3)), "index"),
    "order": (swap_rules, "outbound-from-proxy"),
    "a regular chain": (add("chain", name="elsewhere"), "elsewhere"),
    "a rule in a regular chain": (
        lambda objects: (add("chain", name="other")(objects), add_rule(ACCEPT, chain="other")(objects))[0],
        "other",
    ),
    "a rule in no chain": (add_rule(ACCEPT, chain="nowhere"), "nowhere"),
    "a base chain": (add("chain", name="more", type="filter", hook="input", prio=0, policy="accept"), "more"),
    "a base chain of a device": (
        add("chain", name="more", type="filter", hook="ingress", prio=0, policy="accept", dev="lo"),
        "ingress",
    ),
    "two chains of one name": (
        add("chain", name="nat-out", type="filter", hook="input", prio=0, policy="accept"),
        "nat-out",
    ),
    "a chain moved": (change_object("chain", lambda chain: chain.update(prio=-7)), "-7"),
    "a chain with a priority's name": (change_object("chain", lambda chain: chain.update(prio="filter")), "filter"),
    "a policy": (change_object("chain", lambda chain: chain.update(policy="drop")), "drop"),
    "a chain's comment": (change_object("chain", lambda chain: chain.update(comment="mine")), "mine"),
    "a missing chain": (drop("chain"), "raw-out"),
    "a missing counter": (drop("counter"), "counter"),
    "a counter more": (add("counter", name="mine", packets=1, bytes=1), "mine"),
    "a counter of no number": (change_object("counter", lambda counter: counter.update(packets="many")), "many"),
    "a map": (add("map", name="ports", type="inet_service", map="verdict"), "ports"),
    "a set": (add("set", name="mine", type="ipv4_addr"), "mine"),
    "a set of another type": (add("set", name="mine", type="ether_addr"), "mine"),
    "a set with a time-out": (change_object("set", lambda each: each.update(timeout=60)), "timeout"),
    "a set of another kind": (change_object("set", lambda each: each.update(flags=["dynamic"])), "dynamic"),
    "a set that merges": (change_object("set", lambda each: each.update({"auto-merge": True})), "auto-merge"),
    "a missing set": (drop("set"), "exclude-inbound-networks-v4"),
    "an element more": (change_object("set", lambda each: each["elem"].append("192.0.2.1")), "192.0.2.1"),
    "an element that goes": (
        change_object("set", lambda each: each["elem"].append({"elem": {"val": "192.0.2.1", "expires": 9}})),
        "expires",
    ),
    "an element of another kind": (
        change_object("set", lambda each: each["elem"].append({"range": ["a", "b"]})),
        "range",
    ),
    "an element's comment": (
        change_object("set", lambda each: each.update(elem=[{"elem": {"val": each["elem"][0], "comment": "mine"}}])),
        "mine",
    ),
    "no element": (change_object("set", lambda each: each.pop("elem")), "10.99"),
    "a flow table": (add("flowtable", name="fast", hook="ingress", prio=0), "fast"),
    "an object of the future": (add("tunnel", name="new"), "tunnel"),
    "a dormant table": (
        lambda objects: next(each["table"] for each in objects if "table" in each).update(flags=["dormant"]),
        "dormant",
    ),
    "a dormant table, one flag": (
        lambda objects: next(each["table"] for each in objects if "table" in each).update(flags="dormant"),
        "dormant",
    ),
}
