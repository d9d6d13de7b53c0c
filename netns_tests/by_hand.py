"""Redirection written by hand, after Istio's rules: it proves the harness without any code of Weir."""

from netns_tests.namespace import Namespace

__all__ = ["RULES", "redirect_by_hand", "undo_by_hand"]

# The proxy's dial inwards is marked when it leaves by `lo` and comes back in: mangle saves that on the connection, and
# the application's answers are then routed to `lo` as well, although their destination is elsewhere.
RULES = """
table inet by-hand {
    chain raw-prerouting {
        type filter hook prerouting priority -300
        udp sport 53 meta mark & 0xfff != 0x539 ct zone set 1
    }
    chain raw-output {
        type filter hook output priority -300
        udp dport 53 meta mark & 0xfff == 0x539 ct zone set 1
    }
    chain mangle-prerouting {
        type filter hook prerouting priority -150
        meta mark & 0xfff == 0x539 ct mark set ct mark & 0xfffff000 | 0x111
    }
    chain mangle-output {
        type route hook output priority -150
        ct mark & 0xfff == 0x111 meta mark set ct mark
    }
    chain nat-prerouting {
        type nat hook prerouting priority -100
        ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
        ip6 daddr != ::1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
    }
    chain nat-output {
        type nat hook output priority -100
        oifname != "lo" meta mark & 0xfff != 0x539 udp dport 53 redirect to :15053
        ip daddr != 127.0.0.1 tcp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
        ip6 daddr != ::1 tcp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
        meta l4proto tcp meta mark & 0xfff == 0x111 accept
        oifname "lo" ip daddr != 127.0.0.1 accept
        oifname "lo" ip6 daddr != ::1 accept
        ip daddr != 127.0.0.1 meta l4proto tcp meta mark & 0xfff != 0x539 redirect to :15001
        ip6 daddr != ::1 meta l4proto tcp meta mark & 0xfff != 0x539 redirect to :15001
    }
}
"""


def redirect_by_hand(pod: Namespace) -> None:
    """Send a pod's traffic into the proxy that already listens in it."""
    for family in ("-4", "-6"):
        everything = "0.0.0.0/0" if family == "-4" else "::/0"
        pod.command("ip", family, "rule", "add", "fwmark", "0x111/0xfff", "pref", "32764", "lookup", "100")
        pod.command("ip", family, "route", "add", "local", everything, "dev", "lo", "table", "100")
    pod.nft(RULES)


def undo_by_hand(pod: Namespace) -> None:
    """Take the redirection away again, rules first."""
    pod.nft("delete table inet by-hand")
    for family in ("-4", "-6"):
        pod.command("ip", family, "rule", "del", "pref", "32764")
        pod.command("ip", family, "route", "flush", "table", "100")
