"""What is in a captured namespace's way, provoked there: each finding is named, and gone when it is mended."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.targets import State
from netns_tests.enrolling import APP, Weir, kernel_state
from netns_tests.examined import examined, found, mend
from netns_tests.patience import slow
from netns_tests.proxy import Proxy
from netns_tests.traffic import EchoServer, Tap, connect, exchange
from netns_tests.world import Host, World, eventually

REDIRECT = """
table inet theirs {
    chain out { type nat hook output priority -110; tcp dport 443 redirect to :9443; }
}
"""
MARKS = """
table inet theirs {
    chain out { type route hook output priority 10; udp dport 9 meta mark set meta mark & 0xffffff00 | 0x01; }
}
"""


@pytest.fixture
def captured(weir: Weir, pod: Host) -> Iterator[Proxy]:
    """Give a test a captured pod's proxy, with an application behind it."""
    with Proxy(pod) as running, EchoServer(pod, APP):
        assert weir.capture().captured
        yield running


def reached(world: World, pod: Host) -> bool:
    """Tell whether an inbound connection through the proxy gets its answers."""
    with contextlib.suppress(OSError):
        return exchange(world.outside, (pod.v4, APP), timeout=slow(1.0)).echoed == b"ping"
    return False


def test_a_good_pod_has_no_finding_and_nothing_is_changed(world: World, pod: Host, captured: Proxy) -> None:
    assert reached(world, pod)
    before = [kernel_state(each) for each in (world.node, *world.pods)]
    diagnosis = examined(world.node, *world.pods)
    assert [kernel_state(each) for each in (world.node, *world.pods)] == before
    assert not [each for each in diagnosis.findings if each.where == pod.name]
    assert diagnosis.examined == ("node", *(each.name for each in world.pods))


@pytest.mark.parametrize(
    ("rule", "check"),
    [
        ("not from all fwmark 0xca6c lookup 200", "rule-order"),  # as WireGuard's own wg-quick has it
        ("from all lookup 200", "rule-order"),
        ("from all fwmark 0x11/0xff lookup 200", "mark-collision"),
        ("from all lookup main", "rule-order"),
    ],
)
def test_a_policy_rule_that_takes_the_proxy_s_answers(
    world: World, pod: Host, captured: Proxy, rule: str, check: str
) -> None:
    pod.command("ip", "route", "add", "default", "via", "10.0.1.1", "table", "200")
    pod.command("ip", "rule", "add", "pref", "500", *rule.split())
    assert not reached(world, pod)
    (named,) = found(examined(world.node, pod), check, pod)
    assert named.level == "error"
    assert "rule 500" in named.what
    pod.command("ip", "rule", "del", "pref", "500")
    assert reached(world, pod)
    assert not found(examined(world.node, pod), check, pod)


@pytest.mark.parametrize(
    "rule",
    ["from all fwmark 0x80000/0xff0000 lookup 200", "from all iif eth0 lookup 200", "from all fwmark 0x200/0xf00 nop"],
)
def test_a_policy_rule_that_takes_nothing_is_no_finding(world: World, pod: Host, captured: Proxy, rule: str) -> None:
    pod.command("ip", "route", "add", "default", "via", "10.0.1.1", "table", "200")
    pod.command("ip", "rule", "add", "pref", "500", *rule.split())
    assert reached(world, pod)
    diagnosis = examined(world.node, pod)
    assert not [each for each in diagnosis.findings if each.where == pod.name and "500" in each.what]


def test_the_advised_priority_puts_weir_s_rule_first(world: World, pod: Host, weir: Weir, captured: Proxy) -> None:
    pod.command("ip", "route", "add", "default", "via", "10.0.1.1", "table", "200")
    pod.command("ip", "rule", "add", "pref", "500", "from", "all", "lookup", "200")
    (named,) = found(examined(world.node, pod), "rule-order", pod)
    assert named.command == f"weir apply --netns {pod.name} --set rule_priority=499"
    weir.capture(rule_priority=499)
    assert reached(world, pod)
    assert not found(examined(world.node, pod, rule_priority=499), "rule-order", pod)


def test_a_route_table_that_somebody_else_uses(world: World, pod: Host, weir: Weir) -> None:
    pod.ip("route add 192.0.2.0/24 dev eth0 table 100")
    with Proxy(pod):
        assert not weir.capture().captured
        (taken,) = found(examined(world.node, pod), "table-collision", pod)
        assert "route table 100 holds routes of somebody else" in taken.what
        setting, _, value = taken.command.rpartition(" ")[2].partition("=")
        assert weir.capture(**{setting: int(value)}).state is State.APPLIED
        assert not found(examined(world.node, pod, **{setting: int(value)}), "table-collision", pod)


def test_a_foreign_rule_that_wins(world: World, pod: Host, captured: Proxy) -> None:
    pod.nft(REDIRECT)
    named = found(examined(world.node, pod), "foreign-rule", pod)
    assert any(each.level == "error" and "redirect to :9443" in each.what for each in named)
    pod.nft("delete table inet theirs")
    assert not found(examined(world.node, pod), "foreign-rule", pod)


def by_nft(pod: Host) -> None:
    pod.nft(MARKS)


def by_legacy(pod: Host) -> None:
    pod.command(*"iptables-legacy -t mangle -A POSTROUTING -p udp --dport 9 -j MARK --set-xmark 0x1/0xff".split())


def by_iptables(pod: Host) -> None:
    pod.command(*"ip6tables-nft -t mangle -A POSTROUTING -p udp --dport 9 -j MARK --set-xmark 0x1/0xff".split())


@pytest.mark.parametrize("put", [by_nft, by_legacy, by_iptables])
def test_rules_of_others_that_set_bits_of_the_mark(world: World, pod: Host, put: Callable[[Host], None]) -> None:
    assert not found(examined(world.node, pod), "mark-collision", pod)
    put(pod)
    (named,) = found(examined(world.node, pod), "mark-collision", pod)
    assert "sets bits 0xff of the packet mark" in named.what
    assert not found(examined(world.node, pod, proxy_mark="0x500/0xf00", connection_mark="0x100/0xf00"), "m", pod)


def test_an_application_on_a_port_of_the_proxy_is_named(world: World, pod: Host, captured: Proxy) -> None:
    other = world.pods[1]
    with EchoServer(other, 15008):
        diagnosis = examined(world.node, *world.pods)
    assert not found(diagnosis, "port-taken", pod), "the proxy has them all"
    (taken,) = found(diagnosis, "port-taken", other)
    assert "0.0.0.0:15008" in taken.what or "[::]:15008" in taken.what
    assert "process " in taken.what
    assert not found(examined(world.node, other), "port-taken", other)


def test_the_proxy_s_user_tells_who_else_listens(world: World, pod: Host, captured: Proxy) -> None:
    taken = found(examined(world.node, pod, proxy_user=1337), "port-taken", pod)
    assert taken
    assert all("proxy_user is 1337" in each.what and each.level == "error" for each in taken)


def test_ports_that_connections_leave_with(world: World, pod: Host) -> None:
    pod.sysctl("net/ipv4/ip_local_port_range", "1024 60999")
    (named,) = found(examined(world.node, pod), "port-range", pod)
    assert "15001,15006,15008,15053" in named.what
    mend(world.node, [named])
    assert pod.sysctl("net/ipv4/ip_local_reserved_ports").strip() == "15001,15006,15008,15053"
    assert not found(examined(world.node, pod), "port-range", pod)


@pytest.mark.parametrize(
    ("name", "value", "check"),
    [
        ("net/netfilter/nf_conntrack_tcp_timeout_established", 60, "conntrack-timeout"),
        ("net/netfilter/nf_conntrack_tcp_loose", 0, "conntrack-loose"),
        ("net/ipv6/conf/lo/disable_ipv6", 1, "ipv6"),
    ],
)
def test_a_setting_that_is_in_the_way_is_mended_by_what_is_said(
    world: World, pod: Host, name: str, value: int, check: str
) -> None:
    assert not found(examined(world.node, pod), check, pod)
    pod.sysctl(name, value)
    (named,) = found(examined(world.node, pod), check, pod)
    assert str(value) in named.what
    mend(world.node, [named])
    assert not found(examined(world.node, pod), check, pod)


def test_a_node_that_doesn_t_forward(world: World, pod: Host) -> None:
    assert not found(examined(world.node), "ip-forward")
    world.node.sysctl("net/ipv4/ip_forward", 0)
    (named,) = found(examined(world.node), "ip-forward")
    mend(world.node, [named])
    assert not found(examined(world.node), "ip-forward")


def test_sources_that_are_translated_before_weir_does(world: World) -> None:
    world.node.nft("table ip nat2 {\nchain p { type nat hook postrouting priority 90; oifname pod1 masquerade; }\n}")
    (named,) = found(examined(world.node), "source-translation")
    assert "table ip nat2, chain p translates sources at priority 90" in named.what


def test_a_namespace_that_is_gone_and_one_that_is_none(world: World, pod: Host, tmp_path: Path) -> None:
    gone = Host("gone", 0)
    diagnosis = examined(world.node, gone, pod)
    (missing,) = found(diagnosis, "namespace", gone)
    assert missing.level == "unchecked"
    assert "does not exist" in missing.what
    assert not [each for each in diagnosis.findings if each.where == pod.name]


def test_without_a_kubelet_a_stolen_reply_is_a_note(world: World, pod: Host) -> None:
    pod.command("ip", "rule", "add", "pref", "99", "to", "169.254.7.127", "unreachable")
    (named,) = found(examined(world.node, pod), "probe-reply", pod)
    assert named.level == "note"


@pytest.mark.parametrize(
    "setting",
    ["conf/all/rp_filter", "conf/all/src_valid_mark", "conf/all/route_localnet", "ip_forward", "ip_nonlocal_bind"],
)
def test_settings_that_take_nothing_from_a_capture_are_no_finding(
    world: World, pod: Host, captured: Proxy, setting: str
) -> None:
    for name in (setting, "conf/all/rp_filter", "conf/eth0/rp_filter"):
        pod.sysctl(f"net/ipv4/{name}", 1)
    with EchoServer(world.outside, APP):
        before = len(captured.captured)
        assert reached(world, pod)
        assert exchange(pod, (world.outside.v4, APP)).echoed == b"ping"
        assert len(captured.captured) == before + 2
    assert not [each for each in examined(world.node, pod).findings if each.where == pod.name]


@pytest.mark.parametrize("loose", [0, 1])
def test_why_mid_stream_pick_up_matters(world: World, pod: Host, captured: Proxy, loose: int) -> None:
    """A captured stream that loses its entry goes past the proxy in plain, unless it is picked up again."""
    pod.sysctl("net/netfilter/nf_conntrack_tcp_loose", loose)
    with EchoServer(world.outside, APP), Tap(pod) as tap, connect(pod, (world.outside.v4, APP)) as stream:
        client = stream.getsockname()
        pod.command("conntrack", "-F")
        stream.sendall(b"a secret")
        if loose == 0:
            eventually(lambda: tap.payload(source=client) == b"a secret", "it went out in plain")
        else:
            assert exchange(pod, (world.outside.v4, APP)).echoed == b"ping"
            assert not tap.payload(source=client)
    said = [each.check for each in examined(world.node, pod).findings if each.where == pod.name]
    assert said == (["conntrack-loose"] if loose == 0 else [])


def test_a_default_route_that_will_not_be_renewed(world: World) -> None:
    world.node.sysctl("net/ipv6/conf/outside/accept_ra", 1)
    world.node.command(*"ip -6 route add default via fd99::2 dev outside proto ra".split())
    (named,) = found(examined(world.node), "accept-ra")
    assert "accept_ra is not 2 on outside" in named.what
    mend(world.node, [named])
    assert not found(examined(world.node), "accept-ra")


def test_loopback_addresses_from_the_link_where_outbound_isn_t_captured(world: World, pod: Host) -> None:
    pod.sysctl("net/ipv4/conf/eth0/route_localnet", 1)
    assert not found(examined(world.node, pod), "route-localnet", pod)
    (named,) = found(examined(world.node, pod, outbound=False, dns=False), "route-localnet", pod)
    mend(world.node, [named])
    assert not found(examined(world.node, pod, outbound=False, dns=False), "route-localnet", pod)


def test_a_proxy_s_cgroup_that_isn_t_there(world: World, pod: Host) -> None:
    (named,) = found(examined(world.node, pod, proxy_cgroup="nowhere.slice"), "proxy-cgroup", pod)
    assert "'nowhere.slice'" in named.what
    assert named.level == "error"
