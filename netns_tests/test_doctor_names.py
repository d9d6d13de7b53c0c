"""Interfaces with names that whoever may make some in a pod has chosen: the doctor's commands are pasted by root."""

import shlex

import pytest

from agent.doctor import Finding
from netns_tests.examined import examined, found, mend
from netns_tests.world import Host, World

HOSTILE = pytest.mark.parametrize("name", [";reboot;", "a=1", "*", "-$(a'b.c"])
CONF = "/proc/sys/net/ipv4/conf"


def words(command: str) -> list[str]:
    """Return the words of a shell's line, with what ends commands and leads elsewhere as words of their own."""
    return list(shlex.shlex(command, posix=True, punctuation_chars=True))


def script(finding: Finding) -> list[str]:
    """Return the words of what a finding's command has a shell do."""
    *before, shell, option, text = shlex.split(finding.command)
    assert (shell, option, len(words(finding.command))) == ("sh", "-c", len(before) + 3)
    return words(text)


@HOSTILE
def test_a_setting_of_an_interface(world: World, pod: Host, name: str) -> None:
    pod.command("ip", "link", "add", "name", name, "type", "veth")
    pod.sysctl(f"net/ipv4/conf/{name}/route_localnet", 1)
    (named,) = found(examined(world.node, pod, outbound=False, dns=False), "route-localnet", pod)
    one, other = (f"{CONF}/{each}/route_localnet" for each in ("all", name))
    assert script(named) == ["echo", "0", ">", one, ";", "echo", "0", ">", other]
    mend(world.node, [named])
    assert pod.sysctl(f"net/ipv4/conf/{name}/route_localnet").strip() == "0"
    assert not found(examined(world.node, pod, outbound=False, dns=False), "route-localnet", pod)


def second_network(world: World, pod: Host, name: str) -> None:
    """Give the pod a second link, whose end on the node has this name."""
    world.node.command("ip", "link", "add", "name", name, "type", "veth", "peer", "name", "eth7", "netns", pod.name)
    for line in (["address", "add", "10.77.0.1/32", "dev", name], ["link", "set", name, "up"]):
        world.node.command("ip", *line)
    pod.ip("address add 10.77.0.2/32 dev eth7", "link set eth7 up")
    world.node.command("ip", "route", "add", "10.77.0.2/32", "dev", name, "src", "10.77.0.1")


@HOSTILE
def test_a_rule_for_an_interface(world: World, pod: Host, name: str) -> None:
    second_network(world, pod, name)
    for line in (
        "rule add pref 20 lookup local",
        f"rule add pref 10 iif {name} lookup 101",
        "route add default via 10.99.0.2 table 101",
        "rule del pref 0 lookup local",
    ):
        world.node.command("ip", *line.split(" "))
    (stolen,) = found(examined(world.node, pod), "probe-reply")
    assert words(stolen.command) == [*"ip rule add pref 9 iif".split(), name, *"to 10.77.0.1 lookup local".split()]
    mend(world.node, [stolen])
    assert not found(examined(world.node, pod), "probe-reply")


@HOSTILE
def test_the_filter_of_an_interface(world: World, pod: Host, name: str) -> None:
    second_network(world, pod, name)
    world.node.ip(
        "rule add pref 50 from 10.77.0.1 to 10.77.0.2 lookup 102", "route add default via 10.99.0.2 table 102"
    )
    world.node.sysctl(f"net/ipv4/conf/{name}/rp_filter", 1)
    (dropped,) = found(examined(world.node, pod), "probe-reply")
    assert script(dropped) == ["echo", "2", ">", f"{CONF}/{name}/rp_filter"]
    mend(world.node, [dropped])
    assert not found(examined(world.node, pod), "probe-reply")
