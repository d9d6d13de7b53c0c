"""Generated addresses, ports, marks and interface names."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import strategies as st

from rulesets.vocabulary import Mark, Network, PortRange

# The first and last of each kind come often: nft treats whole ranges and ends of ranges apart.
v4 = st.one_of(st.sampled_from(["0.0.0.0", "127.0.0.1", "255.255.255.255"]).map(IPv4Address), st.ip_addresses(v=4))
v6 = st.one_of(st.sampled_from(["::", "::1", "fe80::1"]).map(IPv6Address), st.ip_addresses(v=6))
addresses = st.one_of(v4, v6)
ports = st.one_of(st.sampled_from([1, 53, 80, 15008, 65535]), st.integers(1, 65535))


def network_of(address: IPv4Address | IPv6Address, length: int) -> Network:
    if isinstance(address, IPv4Address):
        return IPv4Network((address, min(length, 32)), strict=False)
    return IPv6Network((address, length), strict=False)


v4_networks: st.SearchStrategy[Network] = st.builds(network_of, v4, st.integers(0, 32))
v6_networks: st.SearchStrategy[Network] = st.builds(network_of, v6, st.integers(0, 128))
networks: st.SearchStrategy[Network] = st.one_of(v4_networks, v6_networks)
port_ranges = st.tuples(ports, ports).map(lambda pair: PortRange(min(pair), max(pair)))
port_or_range = st.one_of(port_ranges, ports.map(lambda port: PortRange(port, port)))


def _mark(value: int, mask: int) -> Mark:
    return Mark(value & mask, mask)


_masks = st.one_of(
    st.sampled_from([0xFFFFFFFF, 0xFFF, 0xFFFF0000, 0x80000000, 1]),
    st.integers(1, 0xFFFFFFFF),
    st.integers(0, 31).map(lambda bit: 1 << bit),
)
marks = st.builds(_mark, st.one_of(st.just(0), st.integers(0, 0xFFFFFFFF)), _masks)
# Every character that the settings let through, where it is most likely to hurt: at either end.
_STEM = "abcxyz0189!#$%&'()+,-.;<=>?[]^_`{|}~@"
interface_names = st.one_of(
    st.sampled_from(["eth0", "br-*", "a" * 15, "a" * 14 + "*", "e*"]),
    st.builds(
        lambda stem, star: stem[: 15 - len(star)] + star,
        st.text(_STEM, min_size=1, max_size=15).filter(lambda stem: stem not in (".", "..") and stem[0] != "@"),
        st.sampled_from(["", "*"]),
    ),
)

# Paths of cgroups, likewise.
_directories = st.text("abcxyz0189!#$%&(),-.:;<=>?@[\\]^_`{|}~", min_size=1, max_size=9).filter(
    lambda name: name not in (".", "..")
)
cgroups = st.lists(_directories, min_size=1, max_size=4).map("/".join)
