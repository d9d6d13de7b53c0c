"""What a table in place says of the capture that it carries out: enough to find its streams and to take it away."""

from collections.abc import Mapping

from rulesets.capture import Capture
from rulesets.model import Ruleset
from rulesets.vocabulary import Dnat, Redirect, SetMark


def recall(ruleset: Ruleset | None, ports: Mapping[str, int]) -> Capture:
    """Return a capture with the ports and marks of a table, and `ports` for those that it no longer names.

    A table that drains names no ports any more; defaults stand where nothing is known.
    """
    found: dict[str, object] = dict(ports)
    slugs = {"outbound-redirect": "outbound_port", "virtual-interface": "outbound_port", "inbound-redirect": "inbound_port"}
    slugs |= {"outbound-dns-udp": "dns_port"}
    for rule in ruleset.rules() if ruleset else ():
        match rule.action:
            case Redirect(port=port) | Dnat(port=port) if rule.slug in slugs:
                found[slugs[rule.slug]] = port
            case SetMark(mark=mark) if rule.slug == "reply-to-proxy":
                found["connection_mark"] = str(mark)
            case _:
                pass
    inbound = "inbound_port" in found or "connection_mark" in found
    return Capture.parse({**found, "inbound": inbound or not found, "dns": "dns_port" in found})
