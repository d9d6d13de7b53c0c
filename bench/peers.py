"""How others put rules into a namespace. Each is given one, does it once, and returns the seconds that it took.

A program is started by a thread that has entered the namespace: quicker than `ip netns exec`, which mounts first.
"""

import subprocess
import time
from collections.abc import Callable, Sequence

from bench.sampling import timed
from netns_tests.istio_rules import istio_rules
from netns_tests.namespace import Namespace

Program = tuple[Sequence[str], bytes]  # a command and what it reads
Peer = Callable[[Namespace], float]

ISTIO = istio_rules().encode()
# What knftables, which Istio's node agent uses, does before a transaction: is there an nft, and may tables have
# comments? The second is a batch that the kernel takes back, which costs a grace period.
_COMMENTED = b'add table inet istio-ambient-nat { comment "test" ; }\n'
THREE_FORKS: tuple[Program, ...] = (
    (("nft", "--version"), b""),
    (("nft", "--check", "-f", "-"), _COMMENTED),
    (("nft", "-f", "-"), ISTIO),
)
_ADDRESSES = {
    "iptables-legacy-restore": ("169.254.7.127/32", "127.0.0.1/32"),
    "ip6tables-legacy-restore": ("fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128", "::1/128"),
}


def forks(programs: Sequence[Program]) -> Peer:
    """Return what starts programs one after the other."""

    def run() -> float:
        started = time.perf_counter()
        for argv, text in programs:
            _run(argv, text)
        return time.perf_counter() - started

    return lambda namespace: namespace.run(run)


def _run(argv: Sequence[str], text: bytes) -> None:
    done = subprocess.run(argv, input=text, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {' '.join(argv)}\n{done.stderr.decode(errors='replace')}")


def nft(text: str) -> Peer:
    """Return one `nft -f -`."""
    return forks([(("nft", "-f", "-"), text.encode())])


def iptables() -> Peer:
    """Return both iptables-restore, of the legacy flavour, with the rules that Istio writes for them."""
    return forks([((program,), restored(*addresses).encode()) for program, addresses in _ADDRESSES.items()])


def restored(probe: str, loopback: str) -> str:
    """Return Istio's rules for an ambient pod, DNS included, as iptables-restore reads them."""
    proxy, other = "-m mark --mark 0x539/0xfff", "-m mark ! --mark 0x539/0xfff"
    chains = ":ISTIO_PRERT - [0:0]\n:ISTIO_OUTPUT - [0:0]\n-A PREROUTING -j ISTIO_PRERT\n-A OUTPUT -j ISTIO_OUTPUT\n"
    raw = [
        f"-A ISTIO_PRERT -p udp {other} -m udp --sport 53 -j CT --zone 1",
        f"-A ISTIO_OUTPUT -p udp {proxy} -m udp --dport 53 -j CT --zone 1",
    ]
    restore = "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"
    mangle = [
        f"-A ISTIO_PRERT {proxy} -j CONNMARK --set-xmark 0x111/0xfff",
        f"-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff {restore}",
    ]
    nat = [
        f"-A ISTIO_PRERT -s {probe} -p tcp -j ACCEPT",
        f"-A ISTIO_PRERT ! -d {loopback} -p tcp -m tcp ! --dport 15008 {other} -j REDIRECT --to-ports 15006",
        f"-A ISTIO_OUTPUT -d {probe} -p tcp -j ACCEPT",
        f"-A ISTIO_OUTPUT ! -o lo -p udp {other} -m udp --dport 53 -j REDIRECT --to-ports 15053",
        f"-A ISTIO_OUTPUT ! -d {loopback} -p tcp -m tcp --dport 53 {other} -j REDIRECT --to-ports 15053",
        "-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT",
        f"-A ISTIO_OUTPUT ! -d {loopback} -o lo -j ACCEPT",
        f"-A ISTIO_OUTPUT ! -d {loopback} -p tcp {other} -j REDIRECT --to-ports 15001",
    ]
    tables = (("raw", raw), ("mangle", mangle), ("nat", nat))
    return "".join(f"*{name}\n{chains}" + "\n".join(rules) + "\nCOMMIT\n" for name, rules in tables)


def libnftables(text: str) -> Peer:
    """Return libnftables in the process, with Debian's binding: a context in the namespace, and the text."""
    import nftables

    def run() -> float:
        def load() -> tuple[object, int, str]:
            context = nftables.Nftables()  # which goes after the clock has stopped
            code, _, said = context.cmd(text)
            return context, code, said

        seconds, (_, code, said) = timed(load)
        if code:
            raise RuntimeError(said)
        return seconds

    return lambda namespace: namespace.run(run)
