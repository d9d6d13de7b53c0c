"""What an agent could have left on a node and in its pods, as text that is the same before and after.

Left out: what counts (packets, and entries of conntrack), the dates that iptables-save writes, and the two tables of
kube-proxy, which it writes anew whenever a pod or a service comes or goes, and clears of old chains some time later.
"""

import re
from collections.abc import Sequence
from typing import Any

from netns_tests.kubernetes.cluster import Machine
from netns_tests.kubernetes.cluster_tests.webs import process

__all__ = ["Footprint", "footprints"]

Footprint = dict[str, str]  # by what it is

_COMMANDS = {
    "nft": "nft --stateless list ruleset",
    "iptables": "iptables-save",
    "ip6tables": "ip6tables-save",
    "rules": "ip rule; ip -6 rule",
    "routes": "ip route show table all; ip -6 route show table all",
    "sockets": "ss --listening --numeric --no-header --tcp --udp | tr -s ' ' | sort",
}
_FILES = {
    "conflists": "cd /etc/cni/net.d && find . -printf '%P %m %U %G %y\\n' | sort && sha256sum -- *",
    "programs": "cd /opt/cni/bin && find . -printf '%P %m %U %G %y\\n' | sort && sha256sum -- *",
    "run": "find /run/weir /run/ztunnel -mindepth 1 2>/dev/null | sort",
    "state": "find /var/lib /etc -name '*weir*' -not -path '*/containerd/*' -not -path '/var/lib/kubelet/*' | sort",
}
_SETTINGS = "sysctl --all --pattern '^net[.](ipv[46]|netfilter)[.]' 2>/dev/null | sort"
_VOLATILE = (
    re.compile(r"^# (Generated|Completed) .*\n", re.MULTILINE),
    re.compile(r"(?<=[A-Z]) \[\d+:\d+\]"),  # the packets and bytes of a chain's policy
    re.compile(r"^net\.netfilter\.nf_conntrack_count = .*\n", re.MULTILINE),
    re.compile(r"^table ip6? kube-proxy \{\n.*?^\}\n", re.MULTILINE | re.DOTALL),
)


def footprints(nodes: Sequence[Machine], pods: Sequence[Any]) -> dict[str, Footprint]:
    """Return what there is on each node and in each of some pods, by its name."""
    found = {each.name: _seen(each, _COMMANDS | _FILES) for each in nodes}
    by_name = {each.name: each for each in nodes}
    for pod in pods:
        node = by_name[pod["spec"]["nodeName"]]
        inside = ("nsenter", f"--target={process(node, pod)}", "--net")
        found[pod["metadata"]["name"]] = _seen(node, _COMMANDS | {"settings": _SETTINGS}, *inside)
    return found


def _seen(node: Machine, commands: dict[str, str], *inside: str) -> Footprint:
    return {what: _plain(node.run(*inside, "sh", "-c", how)) for what, how in commands.items()}


def _plain(text: str) -> str:
    for each in _VOLATILE:
        text = each.sub("", text)
    return text
