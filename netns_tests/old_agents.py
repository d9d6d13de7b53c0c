"""A pod as another agent leaves it: its rules in each form, its policy rules and routes, and others' rules beside."""

from netns_tests.istio_rules import istio_rules
from netns_tests.namespace import Namespace
from rulesets import iptables, pod
from rulesets.capture import Capture
from rulesets.iptables import PROGRAMS
from rulesets.vocabulary import Family
from tests.istio_saves import istio_save

__all__ = ["AGENTS", "FLAVOURS", "beside", "enrolled_by", "routed", "saved"]

FLAVOURS = ("legacy", "nft")
# Istio's chains in both flavours, its own nft tables, Cilium's chains, and Weir's rules as iptables' own.
AGENTS = ("istio-legacy", "istio-nft", "istio-native", "cilium-nft", "weir-legacy")
_OTHERS = """*raw
-A PREROUTING -d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 9000 -j DROP
COMMIT
*mangle
:KUBE-PROXY-CANARY - [0:0]
[4:240] -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*nat
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NPX46M4P - [0:0]
[7:420] -A PREROUTING -d 10.96.0.0/12 -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
[5:300] -A OUTPUT -d 172.17.0.0/16 -m addrtype --dst-type LOCAL -j DOCKER
[9:540] -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
[3:180] -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "it\\'s \\"odd\\"" -m tcp --dport 443 -j KUBE-SVC-NPX46M4P
[1:60] -A KUBE-SVC-NPX46M4P -p tcp -m tcp -j DNAT --to-destination 10.99.0.2:6443
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
[2:120] -A FORWARD -j KUBE-FIREWALL
[8:480] -A KUBE-FIREWALL -m conntrack --ctstate INVALID -j DROP
COMMIT
"""


def enrolled_by(namespace: Namespace, agent: str, *, routes_by: str = "boot") -> None:
    """Put an agent's rules in, beside whatever is there, and its routes, with a protocol of `ip route`."""
    who, _, form = agent.partition("-")
    if form == "native":
        namespace.nft(istio_rules())
    for family in Family if form != "native" else ():
        namespace.command(f"{PROGRAMS[family]}-{form}-restore", "--noflush", stdin=_text(who, family))
    routed(namespace, routes_by)


def routed(namespace: Namespace, protocol: str = "boot") -> None:
    """Add the rules for marked packets and the routes behind them."""
    for ip, everything in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        namespace.command("ip", ip, "route", "add", "local", everything, *"dev lo table 100 proto".split(), protocol)
        namespace.command("ip", ip, "rule", "add", *"fwmark 0x111/0xfff pref 32764 lookup 100".split())


def beside(namespace: Namespace, form: str) -> None:
    """Put rules in as kube-proxy and Docker have them; with counters, but for what traffic here goes through."""
    namespace.command(f"iptables-{form}-restore", "--noflush", "--counters", stdin=_OTHERS)


def saved(namespace: Namespace) -> dict[str, str]:
    """Return what iptables-save prints of each flavour and family, with counters, less its comments."""
    found = {}
    for flavour in FLAVOURS:
        for program in PROGRAMS.values():
            text = namespace.command(f"{program}-{flavour}-save", "--counters")
            found[f"{program}-{flavour}"] = "".join(
                line for line in text.splitlines(keepends=True) if not line.startswith("#")
            )
    return found


def _text(who: str, family: Family) -> str:
    if who == "weir":
        return iptables.render(iptables.translate(pod.build(Capture()), family), family)
    text = istio_save(family, dns=who == "istio")
    return text if who == "istio" else text.replace("ISTIO_PRERT", "CILIUM_PREROUTING").replace("ISTIO_", "CILIUM_")
