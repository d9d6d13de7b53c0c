"""Scenes 1 to 5: what is there, what Weir would do, enrolling, the traffic afterwards, and Weir's own check."""

import re

from netns_tests.demo.stage import (
    DNS,
    EXCLUDED_ADDRESS,
    EXCLUDED_NETWORK,
    EXCLUDED_PORT,
    FAMILIES,
    WEB,
    Stage,
)
from netns_tests.dns import A
from netns_tests.proxy import DNS_ANSWER
from netns_tests.servers import DNS_SERVER_ANSWER
from netns_tests.traffic import dns_ask

__all__ = ["apply", "diff", "look", "traffic", "verify"]

TARGETS = """\
[defaults]
exclude_outbound_networks = ["{network}"]
exclude_outbound_ports = [{port}]

[[target]]
name = "pod1"
netns = "{pod1}"

[[target]]
name = "pod2"
netns = "{pod2}"
"""
LINES_OF_DIFF = 12


def look(stage: Stage) -> str:
    """Show the two pods before anything is done to them."""
    screen, world = stage.screen, stage.world
    screen.say("Two pods behind a node, as on a Kubernetes node but without Kubernetes, and an outside with servers.")
    screen.table(
        ("namespace", "IPv4", "IPv6", "what runs there"),
        (
            (f"pod1 ({stage.pod1.name})", stage.pod1.v4, stage.pod1.v6, "a client"),
            (f"pod2 ({stage.pod2.name})", stage.pod2.v4, stage.pod2.v6, "a web server"),
            (f"outside ({world.outside.name})", world.outside.v4, world.outside.v6, "a web server, a DNS server"),
        ),
    )
    requests = stage.requests()
    stage.show(requests)
    screen.claim(all(each.direct for each in requests), "every request reaches its server directly", requests)
    answer = dns_ask(stage.pod1, (world.outside.v4, DNS))
    screen.claim(answer == [DNS_SERVER_ANSWER[A]], f"pod1's DNS query is answered by the server: {answer[0]}", answer)
    rules = {name: pod.command("nft", "list", "ruleset") for name, pod in stage.names.items()}
    screen.claim(not any(rules.values()), "`nft list ruleset` prints nothing in either pod", rules)
    return "without Weir, every request goes directly"


def diff(stage: Stage) -> str:
    """Show what would change, and that looking changes nothing."""
    screen = stage.screen
    screen.say("A file says which namespaces are to be captured, and what is to stay outside.")
    text = TARGETS.format(network=EXCLUDED_NETWORK, port=EXCLUDED_PORT, pod1=stage.pod1.name, pod2=stage.pod2.name)
    stage.weir.file.write_text(text)
    screen.typed(f"cat {stage.weir.file.name}", None, text)
    code, said = stage.run("diff", "--file", stage.weir.file.name, most=LINES_OF_DIFF)
    both = code == 1 and said.count("differs") == 2
    screen.claim(both, "`weir diff` says that both pods differ (exit code 1)", said)
    screen.claim(said.count("+ table inet weir-pod") == 2, "it lists the rules and routes that it would add", said)
    rendered = stage.weir("render", "--file", stage.weir.file.name, "pod1")
    chain = re.search(r"^\tchain nat-out \{.*?^\t\}\n", rendered.output, re.MULTILINE | re.DOTALL)
    screen.claim(rendered.code == 0 and chain, "`weir render` prints the rules as nft has them; one chain:", rendered)
    screen.typed(f"{rendered.typed} | sed -n '/chain nat-out/,/}}/p'", None, chain[0] if chain else "")
    same = stage.snapshot() == stage.before
    screen.claim(same, "rules and routes of all namespaces are still what they were, byte for byte", stage.snapshot())
    return "diff and render show every rule and change nothing"


def apply(stage: Stage) -> str:
    """Enrol both pods under two running downloads."""
    screen = stage.screen
    file = stage.weir.file.name
    outwards = stage.download("backup.tar", stage.pod1, stage.outside, "IPv4")
    inwards = stage.download("video.mp4", stage.outside, stage.pod2, "IPv6")
    downloads = (outwards, inwards)
    screen.say("Two downloads begin: pod1 reads from outside over IPv4, and the outside reads from pod2 over IPv6.")
    code, said = stage.run("apply", "--file", file)
    screen.claim(code == 1 and said.count("waiting") >= 2, "no proxy runs yet, so Weir waits: no outage", said)
    same = stage.snapshot() == stage.before
    screen.claim(same, "and it has written nothing", stage.snapshot())
    stage.start_proxies()
    screen.say("\nA small transparent proxy starts in each pod (outbound 15001, inbound 15006, DNS 15053).")
    code, said = stage.run("apply", "--file", file)
    screen.claim(code == 0 and said.count("applied") == 2, "both pods are captured", said)
    amounts = [each.goes_on() for each in downloads]
    still = not any(each.captured for each in downloads)
    screen.claim(still, f"both downloads go on: {' and '.join(map(_size, amounts))} have arrived so far")
    code, said = stage.run("status", "--file", file)
    listed = all(each.listed(said) for each in downloads)
    screen.claim(listed, "`weir status` lists them as kept outside the proxy", said)
    screen.claim(code == 0 and "2 of 2 targets captured" in said, "and both pods as captured", said)
    return "two pods are enrolled while downloads run through, one in each direction"


def traffic(stage: Stage) -> str:
    """Show who answers now, in both families and directions, and what stays outside."""
    screen = stage.screen
    screen.say("The same requests as at the beginning. The proxy reads from its socket where each wanted to go.")
    requests = stage.requests()
    stage.show(requests)
    for each, (way, family) in zip(requests, _ways(), strict=True):
        screen.claim(each.captured, f"{family}, {way}: the proxy got it and knows both addresses", each)
    screen.say("\nThe file leaves a network and a port outside:")
    excluded = [
        stage.request(stage.pod1, (EXCLUDED_ADDRESS, WEB)),
        stage.request(stage.pod1, (stage.outside.v6, EXCLUDED_PORT)),
    ]
    stage.show(excluded)
    screen.claim(excluded[0].direct, f"the excluded network {EXCLUDED_NETWORK} is reached directly", excluded[0])
    screen.claim(excluded[1].direct, f"the excluded port {EXCLUDED_PORT} is reached directly", excluded[1])
    for family, number in FAMILIES.items():
        answer = dns_ask(stage.pod1, (stage.outside.address(number), DNS))
        sentence = f"DNS over {family} is answered by the proxy ({answer[0]}), not by the server asked"
        screen.claim(answer == [DNS_ANSWER[A]], sentence, answer)
    return "new connections go through the proxy: IPv4 and IPv6, out and in, DNS; what is excluded does not"


def verify(stage: Stage) -> str:
    """Have Weir check what the kernel has."""
    screen = stage.screen
    file = stage.weir.file.name
    code, said = stage.run("verify", "--file", file)
    screen.claim(code == 0 and "not " not in said, "`weir verify` finds rules, routes, proxy and families right", said)
    code, said = stage.run("diff", "--file", file)
    screen.claim(code == 0, "`weir diff` finds no difference any more (exit code 0)", said)
    return "what the kernel has, read back, equals what was wanted"


def _ways() -> list[tuple[str, str]]:
    return [(way, family) for way in ("out of pod1", "into pod2") for family in FAMILIES]


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB"
