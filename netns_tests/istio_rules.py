"""The rules that Istio's node agent writes into an ambient pod, by hand: nftables.go of its CNI node agent, dual-stack.

Three tables, each with jumps from its base chains. Routes and policy rules are those of Weir's defaults.
"""

__all__ = ["istio_rules"]

PROBES = {"ip": "169.254.7.127", "ip6": "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"}
LOOPBACK = {"ip": "127.0.0.1/32", "ip6": "::1/128"}


def istio_rules(*, dns: bool = True, ingress: bool = False, virtual_interfaces: tuple[str, ...] = ()) -> str:
    """Return what a pod gets that has these settings."""
    guests = [
        line
        for name in virtual_interfaces
        for line in (
            f'iifname "{name}" meta l4proto tcp counter redirect to :15001',
            f'iifname "{name}" meta l4proto tcp counter return',
        )
    ]
    probes = [f"meta l4proto tcp {ip} saddr {address} counter accept" for ip, address in PROBES.items()]
    inbound = [
        f"{ip} daddr != {loopback} tcp dport != 15008 mark and 0xfff != 0x539 counter redirect to :15006"
        for ip, loopback in LOOPBACK.items()
    ]
    queries = ['oifname != "lo" mark and 0xfff != 0x539 udp dport 53 counter redirect to :15053']
    queries += [
        f"{ip} daddr != {loopback} tcp dport 53 mark and 0xfff != 0x539 counter redirect to :15053"
        for ip, loopback in LOOPBACK.items()
    ]
    outbound = [
        *(f"meta l4proto tcp {ip} daddr {address} counter accept" for ip, address in PROBES.items()),
        *(queries if dns else []),
        "meta l4proto tcp mark and 0xfff == 0x111 counter accept",
        *(f'oifname "lo" {ip} daddr != {loopback} counter accept' for ip, loopback in LOOPBACK.items()),
        *(
            f"meta l4proto tcp {ip} daddr != {loopback} mark and 0xfff != 0x539 counter redirect to :15001"
            for ip, loopback in LOOPBACK.items()
        ),
    ]
    nat = _table("nat", ("nat", -100), ("nat", -100), [*guests, *([] if ingress else [*probes, *inbound])], outbound)
    mangle = _table(
        "mangle",
        ("filter", -150),
        ("route", -150),
        ["meta mark & 0xfff == 0x539 counter ct mark set ct mark & 0xfffff000 | 0x111"],
        ["ct mark and 0xfff == 0x111 counter meta mark set ct mark"],
    )
    zone = "counter ct zone set 1"
    raw = _table(
        "raw",
        ("filter", -300),
        ("filter", -300),
        [f"udp sport 53 meta mark & 0xfff != 0x539 {zone}"],
        [f"udp dport 53 meta mark & 0xfff == 0x539 {zone}"],
    )
    return nat + mangle + (raw if dns else "")


def _table(
    name: str, arriving: tuple[str, int], leaving: tuple[str, int], prerouting: list[str], output: list[str]
) -> str:
    chains = (("prerouting", arriving, prerouting), ("output", leaving, output))
    lines = [f"table inet istio-ambient-{name} {{"]
    for hook, _, rules in chains:
        lines += [f"chain istio-{hook} {{", *rules, "}"]
    for hook, (kind, priority), _ in chains:
        lines += [f"chain {hook} {{", f"type {kind} hook {hook} priority {priority}; policy accept;"]
        lines += [f"counter jump istio-{hook}", "}"]
    return "\n".join([*lines, "}", ""])
