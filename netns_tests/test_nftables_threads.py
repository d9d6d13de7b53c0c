"""libnftables is not safe in two threads, not even with a context each: `Tables` has to be."""

from agent.kernel.nftables import Tables
from netns_tests.namespace import Namespace

TABLE = "shared"
# The listing of these types is where libnftables keeps its place in a variable of the process.
SETS = "".join(
    f"add set inet {TABLE} s{number} {{ type {kind}; flags interval; }}\n"
    for number, kind in enumerate(("ipv4_addr", "ipv6_addr", "inet_service") * 8)
)
ROUNDS, THREADS = 250, 4


def read_often() -> set[str]:
    tables = Tables()
    try:
        tables.load(f"add table inet {TABLE}\n{SETS}")
        return {str(tables.read(TABLE)) for _ in range(ROUNDS)}
    finally:
        tables.close()


def test_readers_of_several_namespaces_do_not_disturb_each_other(root: None) -> None:
    places = [Namespace.create(f"ns{number}") for number in range(THREADS)]
    found = [future.result() for future in [place.thread(read_often) for place in places]]
    assert [len(each) for each in found] == [1] * THREADS
    assert set.union(*found) == found[0]
