"""Saves by hand: every flavour's spelling, what stays verbatim, and what is refused with its line."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from rulesets import iptables
from rulesets.model import Rule, Ruleset
from rulesets.packet import Fate, Packet, walk
from rulesets.vocabulary import (
    Accept,
    Comment,
    ConnState,
    ConnStates,
    Continue,
    CtZone,
    DnatTo,
    DstPort,
    Family,
    FlipMark,
    Hook,
    InIface,
    LocalAddress,
    Mark,
    MarkOf,
    Masquerade,
    NoSocket,
    NoTrack,
    OtherProto,
    Owner,
    PortRange,
    Proto,
    Protocol,
    Redirect,
    RestoreMark,
    SetConnMark,
    SetMark,
    SocketOwner,
    TcpFlag,
    TcpFlags,
)

SAVES = sorted((Path(__file__).parent / "saves").iterdir())


def parsed(*lines: str, table: str = "nat", family: Family = Family.IPV4) -> Ruleset:
    return iptables.parse("\n".join([f"*{table}", *lines, "COMMIT", ""]), family)


def rule(line: str, table: str = "nat", family: Family = Family.IPV4) -> Rule:
    (found,) = parsed(f"-A OUTPUT {line}", table=table, family=family).rules()
    return found


@pytest.mark.parametrize("path", SAVES, ids=lambda path: path.name)
def test_a_save_loses_no_line_and_comes_back(path: Path) -> None:
    text, family = path.read_text(), Family(path.suffix[1:])
    found = iptables.parse(text, family)
    assert sum(1 for _ in found.rules()) == text.count("\n-A ")
    assert sorted(iptables.render(found, family).split("COMMIT\n")) == sorted(text.split("COMMIT\n"))


@pytest.mark.parametrize("path", SAVES, ids=lambda path: path.name)
def test_a_save_without_one_of_its_rules_is_another(path: Path) -> None:
    lines, family = path.read_text().splitlines(), Family(path.suffix[1:])
    rules = [at for at, line in enumerate(lines) if line.startswith("-A ")]
    whole = iptables.render(iptables.parse("\n".join(lines), family), family)
    for at in rules:
        without = "\n".join(lines[:at] + lines[at + 1 :])
        assert iptables.render(iptables.parse(without, family), family) != whole


SPELLINGS = [
    ("-p tcp -m tcp --dport 80 -j ACCEPT", (DstPort(protocol=Protocol.TCP, ports=PortRange(80, 80)),), Accept()),
    ("-p tcp --dport 80 -j ACCEPT", (DstPort(protocol=Protocol.TCP, ports=PortRange(80, 80)),), Accept()),
    ("-p 6 -m tcp --destination-port 1024: -j ACCEPT",
     (DstPort(protocol=Protocol.TCP, ports=PortRange(1024, 65535)),), Accept()),
    ("-p tcp -m tcp --syn", (TcpFlags(among=(TcpFlag.FIN, TcpFlag.SYN, TcpFlag.RST, TcpFlag.ACK),
                                      set=(TcpFlag.SYN,)),), Continue()),
    ("-p 132", (OtherProto(number=132),), Continue()),
    ("-p sctp", (OtherProto(number=132),), Continue()),
    ("! -p udp", (Proto(protocol=Protocol.UDP, negate=True),), Continue()),
    ("-i eth+ -j ACCEPT", (InIface(name="eth*"),), Accept()),
    ("-m state --state RELATED,NEW", (ConnStates(states=(ConnState.NEW, ConnState.RELATED)),), Continue()),
    ("-m addrtype ! --dst-type LOCAL", (LocalAddress(negate=True),), Continue()),
    ("-m owner ! --gid-owner 5-9", (SocketOwner(owner=Owner.GROUP, first=5, last=9, negate=True),), Continue()),
    ("-m owner ! --socket-exists", (NoSocket(),), Continue()),
    ('-m comment --comment "a \\"b\\" \\\\ c"', (Comment(text='a "b" \\ c'),), Continue()),
    ("-j MARK --set-mark 0x1", (), SetMark(mark=Mark(1))),
    ("-j MARK --set-mark 0x1/0xf0", (), SetMark(mark=Mark(1, 0xF1))),
    ("-j MARK --set-xmark 0x1/0xf0", (), FlipMark(of=MarkOf.PACKET, value=1, mask=0xF0)),
    ("-j MARK --and-mark 0xff", (), SetMark(mark=Mark(0, 0xFFFFFF00))),
    ("-j MARK --or-mark 0x4", (), SetMark(mark=Mark(4, 4))),
    ("-j CONNMARK --set-xmark 0x111/0xfff", (), SetConnMark(mark=Mark(0x111, 0xFFF))),
    ("-j CONNMARK --restore-mark", (), RestoreMark()),
    ("-j CONNMARK --restore-mark --mask 0xff", (), RestoreMark(packet_mask=0xFF, connection_mask=0xFF)),
    ("-j CT --notrack", (), NoTrack()),
    ("-j NOTRACK", (), NoTrack()),
    ("-j CT --zone-orig 7", (), CtZone(zone=7)),
    ("-j DNAT --to-destination 1.2.3.4:80", (), DnatTo(address=ip_address("1.2.3.4"), port=80)),
    ("-j MASQUERADE --random-fully", (), Masquerade(fully_random=True)),
    ("-p tcp -j REDIRECT --to-ports 15001", (Proto(protocol=Protocol.TCP),), Redirect(port=15001)),
    ('-j LOG --log-prefix "-j DROP "', (), Continue(beside='-j LOG --log-prefix "-j DROP "')),
]  # fmt: skip


@pytest.mark.parametrize(("line", "matches", "action"), SPELLINGS, ids=[each[0] for each in SPELLINGS])
def test_each_spelling_is_read(line: str, matches: tuple[object, ...], action: object) -> None:
    found = rule(line)
    assert (found.matches, found.action) == (matches, action)


@pytest.mark.parametrize(
    "line",
    [
        "-m statistic --mode random --probability 0.5",
        "-m tcp --dport 80",
        "-f",
        "-s 10.0.0.1/255.0.255.0",
        "-p tcp -m tcp --tcp-option 5",
        "-m mark --mark 0x111/0x1",
        "-m mark --mark 0x0/0x0",
        "-m comment --comment",
        "-m conntrack --ctstate NEW,DNAT",
        "-m conntrack --ctorigdst 1.2.3.4 --ctstate NEW",
        "! -i +",
        "-m set --match-set x src --return-nomatch",
        "-m owner --uid-owner nobody",
        "-j NFQUEUE --queue-num 1",
        "-j REDIRECT",
        "-j DNAT --to-destination 1.2.3.4-1.2.3.9",
        "-j SNAT --to-source 1.2.3.4:1-2",
        "-j CT --zone mark",
        "-j CT --helper ftp",
        '-m string --string "-j DROP" --algo bm --to 65535',
        "--unheard-of 5 -m unheard --of 7 ! --at 9",
        "-m socket --restore-skmark",
        "!",
    ],
)
def test_what_has_no_variant_is_kept_verbatim(line: str) -> None:
    found = rule(line)
    assert found.foreign
    assert rule(line) != found
    assert " ".join(iptables.render_rule(found, Family.IPV4).split()) == line


def test_a_known_match_beside_a_foreign_one_still_tells() -> None:
    """A packet that isn't what the known part asks for is past the rule, whatever the rest would say."""
    found = parsed(
        "-A OUTPUT -d 10.0.0.1/32 -m statistic --mode nth --every 2 --packet 0 -j ACCEPT",
        "-A OUTPUT -m limit --limit 3/min -j LOG",
        "-A OUTPUT -p tcp -j REDIRECT --to-ports 5",
    )
    here, there = (Packet(hook=Hook.OUTPUT, source=ip_address("10.9.9.9"), destination=ip_address(each))
                   for each in ("10.0.0.1", "10.0.0.2"))  # fmt: skip
    assert walk(found, here).fate is Fate.UNKNOWN
    assert walk(found, there).packet.destination_port == 5


def test_flavours_and_counters_are_read_alike() -> None:
    plain = "*nat\n:OUTPUT ACCEPT [0:0]\n:X - [0:0]\n-A OUTPUT -j X\n-A X -j ACCEPT\nCOMMIT\n"
    dressed = (
        "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n"
        "# Generated by iptables-nft-save v1.8.9 (nf_tables) on Sun Nov 22 18:01:57 2026\n"
        "*nat\n:OUTPUT ACCEPT [12:34]\n:X - [0:0]\n"
        "[5:6] -A OUTPUT -j X\n-A X -c 7 8 -j ACCEPT\nCOMMIT\n# Completed on Sun Nov 22 18:01:57 2026\n"
    )
    found = iptables.parse(dressed, Family.IPV4)
    assert found == iptables.parse(plain, Family.IPV4)
    assert [(each.count.packets, each.count.bytes) for each in found.rules() if each.count] == [(5, 6), (7, 8)]
    chain = found.chain("nat/OUTPUT")
    assert chain is not None
    assert chain.count is not None
    assert (chain.count.packets, chain.count.bytes) == (12, 34)


def test_a_slug_is_the_comment_that_stands_last() -> None:
    found = rule("-m comment --comment outbound-redirect -j ACCEPT")
    assert (found.slug, found.matches) == ("outbound-redirect", ())
    found = rule("-m comment --comment first -m mark --mark 0x1 -j ACCEPT")
    assert found.slug == ""


def test_a_jump_says_where_the_packet_goes_on() -> None:
    found = parsed(
        ":X - [0:0]",
        ":Y - [0:0]",
        "-A OUTPUT -p udp -g X",
        "-A OUTPUT -j X",
        "-A OUTPUT -p tcp -j REDIRECT --to-ports 2",
        "-A X -p tcp -m tcp --dport 1 -j RETURN",
        "-A X -j Y",
        "-A X -p tcp -m tcp --dport 9 -j REDIRECT --to-ports 9",
        "-A Y -p tcp -m tcp --dport 9 -j RETURN",
        "-A Y -p udp -j REDIRECT --to-ports 3",
    )

    def out(protocol: Protocol, port: int) -> tuple[int, list[tuple[str, int]]]:
        source, destination = ip_address("10.9.9.9"), ip_address("10.0.0.1")
        packet = Packet(
            hook=Hook.OUTPUT, source=source, destination=destination, protocol=protocol, destination_port=port
        )
        verdict = walk(found, packet)
        return verdict.packet.destination_port, [(met.chain, met.number) for met in verdict.rules]

    assert out(Protocol.TCP, 1) == (2, [("nat/OUTPUT", 2), ("nat/X", 1), ("nat/OUTPUT", 3)])
    assert out(Protocol.TCP, 9) == (9, [("nat/OUTPUT", 2), ("nat/X", 2), ("nat/Y", 1), ("nat/X", 3)])
    assert out(Protocol.UDP, 53) == (3, [("nat/OUTPUT", 1), ("nat/X", 2), ("nat/Y", 2)])
    assert out(Protocol.ICMP, 0) == (0, [("nat/OUTPUT", 2), ("nat/X", 2)])
