"""The daemon's metrics of connections, as Prometheus reads them."""

import socket
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

from agent.kernel.conntrack import Conntrack, FlowTuple
from netns_tests.daemon import CAPTURE, PROXY, Daemon, listening, targets
from netns_tests.namespace import Namespace

NAMESPACES, FLOWS = 50, 20_000
# A machine whose kernel has no CONFIG_NF_CONNTRACK_PROCFS: nothing of conntrack's is under /proc/net.
WITHOUT_PROC = 'mount --make-rprivate / && mount -t tmpfs none "/proc/$$/net" && exec "$@"'


def flood(first: int, many: int) -> None:
    """Make entries of established connections in the calling thread's namespace."""
    with Conntrack() as conntrack:
        for number in range(first, first + many):
            made = FlowTuple(
                source=ip_address("10.9.9.9"),
                destination=ip_address("10.8.8.8") + number // 60000,
                protocol=socket.IPPROTO_TCP,
                source_port=number % 60000 + 1,
                destination_port=80,
            )
            conntrack.create_established(made, mark=0, timeout=600)


def test_the_one_namespace_with_very_many_flows_is_named(tmp_path: Path, stack: ExitStack) -> None:
    namespaces = [stack.enter_context(Namespace.create("flows")) for _ in range(NAMESPACES)]
    through = ("unshare", "--mount", "sh", "-c", WITHOUT_PROC, "sh")
    daemon = stack.enter_context(Daemon(tmp_path, targets(namespaces, CAPTURE), through=through))
    daemon.start()
    assert not Path(f"/proc/{daemon.pid}/root/proc/{daemon.pid}/net/stat").exists()
    namespaces[17].run(flood, 0, FLOWS)

    def counted() -> bool:
        found = daemon.metrics()
        return found["weir_conntrack_entries", ("t17",)] >= FLOWS and (
            found.get(("weir_conntrack_states", ("established", "t17")), 0) >= FLOWS
        )

    daemon.eventually(counted, "the flood is counted, and looked into")
    found = daemon.metrics()
    for number in range(NAMESPACES):
        entries = found["weir_conntrack_entries", (f"t{number}",)]
        assert entries >= FLOWS if number == 17 else entries < 100
        assert found["weir_conntrack_maximum", (f"t{number}",)] > FLOWS
    for name in ("insert_failed", "drops", "early_drops", "invalid"):
        assert found[f"weir_conntrack_{name}_total", ("t17",)] >= 0
    assert found["weir_conntrack_direct", ("t17",)] == FLOWS
    assert found["weir_conntrack_left_out", ()] == 0


def test_a_table_that_fills_says_when_it_is_full(tmp_path: Path, stack: ExitStack) -> None:
    growing, still = (stack.enter_context(Namespace.create("flows")) for _ in range(2))
    listeners = [*listening(growing, *PROXY), *listening(still, *PROXY)]
    daemon = stack.enter_context(Daemon(tmp_path, targets([growing, still], CAPTURE)))
    daemon.start()
    many = iter(range(10**6))

    def told() -> bool:
        first = next(many) * 50
        growing.run(flood, first, 50)
        return ("weir_conntrack_full_seconds", ("t0",)) in daemon.metrics()

    daemon.eventually(told, "it is said when the table is full")
    found = daemon.metrics()
    assert found["weir_conntrack_full_seconds", ("t0",)] > 0
    assert ("weir_conntrack_full_seconds", ("t1",)) not in found, "one that doesn't grow is never full"
    for each in listeners:
        each.close()
