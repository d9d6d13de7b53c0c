"""Addresses, ports, users and TCP flags that are special, or make plain examples where the rules leave them open."""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from rulesets.vocabulary import Address, Family, Network, TcpFlag

NOBODY = -1  # the user or group of a packet that no local socket sent
LOOPBACK: Mapping[Family, Network] = {Family.IPV4: ip_network("127.0.0.0/8"), Family.IPV6: ip_network("::1")}
LOOPBACK_ADDRESS: Mapping[Family, Address] = {Family.IPV4: ip_address("127.0.0.1"), Family.IPV6: ip_address("::1")}
MULTICAST: Mapping[Family, Network] = {Family.IPV4: ip_network("224.0.0.0/4"), Family.IPV6: ip_network("ff00::/8")}
BROADCAST = ip_address("255.255.255.255")
UNSPECIFIED: Mapping[Family, Network] = {Family.IPV4: ip_network("0.0.0.0/8"), Family.IPV6: ip_network("::")}
# What makes a plain example where the rules leave it open: a client and a service, and then others.
ADDRESSES: Mapping[Family, tuple[int, ...]] = {
    family: tuple(int(ip_address(each)) for each in text.split())
    for family, text in {
        Family.IPV4: "10.0.0.5 10.9.0.1 10.9.0.2 10.0.0.6 192.0.2.1 198.51.100.7 203.0.113.5 172.16.0.9",
        Family.IPV6: "fd00::5 fd00:9::1 fd00:9::2 fd00::6 2001:db8::1 2001:db8:7::1 fd07::1 fd00:8::9",
    }.items()
}
SERVICES = (443, 80, 8080, 53, 22, 9090, 5000)
CLIENTS = (40000, 40001, 50000, 1024)
USERS = (1000, 0, 1001, 65534)
INTERFACES = ("eth0", "eth1", "ens3", "wlan0")
MOST_USER = 2**32 - 2

# What conntrack takes for a TCP packet at all (nf_conntrack_proto_tcp.c, tcp_valid_flags), PSH, ECN and CWR aside.
_VALID = ("syn", "syn urg", "syn ack", "rst", "rst ack", "fin ack", "fin ack urg", "ack", "ack urg")
_BESIDE = ("", "ecn", "cwr", "ecn cwr")
FLAGS = tuple(
    tuple(flag for flag in TcpFlag if flag in f"{each} {pushed} {more}".split())
    for more in _BESIDE
    for pushed in ("", "psh")
    for each in _VALID
)


def begins(flags: tuple[TcpFlag, ...]) -> bool:
    """Tell whether conntrack takes it for a connection's first packet: a SYN, or one from the midst of a stream."""
    if TcpFlag.SYN in flags:
        return TcpFlag.ACK not in flags
    return TcpFlag.ACK in flags and not {TcpFlag.FIN, TcpFlag.RST} & set(flags)
