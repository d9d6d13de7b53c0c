"""libnftables in the process: what an error says, what it reads, and that nothing is executed."""

import ctypes
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import KernelError, LibraryMissing, PermissionMissing
from agent.kernel.nftables import Tables, binding
from netns_tests.namespace import Namespace
from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.pod import POD_TABLE

ROOT = Path(__file__).parent.parent
RULES = pod.build(Capture())


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace.create("tables") as made:
        yield made


@pytest.fixture
def tables(namespace: Namespace) -> Iterator[Tables]:
    made = namespace.run(Tables)
    yield made
    made.close()


def ruleset(namespace: Namespace) -> str:
    return namespace.command("nft", "-s", "list", "ruleset")


@pytest.mark.parametrize(
    ("text", "statement", "said"),
    [
        ("add table inet x\nadd rule inet x none accept\n", "add rule inet x none accept", "No such file or directory"),
        ("table inet x {\n\tchain c {\n\t\tnonsense\n\t}\n}\n", "nonsense", "syntax error"),
        ("add table inet x\ndelete set inet x none\n", "delete set inet x none", "No such file or directory"),
        (
            "add table inet x\nadd chain inet x c { type nat hook forward priority 0; }\n",
            "add chain inet x c",
            "not sup",
        ),
    ],
)
def test_an_error_names_the_statement_and_what_was_said(
    namespace: Namespace, tables: Tables, text: str, statement: str, said: str
) -> None:
    namespace.nft("add table ip foreign")
    before = ruleset(namespace)
    with pytest.raises(KernelError) as refused:
        tables.load(text)
    assert statement in refused.value.statement
    assert said in refused.value.said
    assert "Could not process rule" not in refused.value.said
    assert ruleset(namespace) == before
    tables.load(nft.render(RULES))  # and it goes on working
    assert tables.read(POD_TABLE) == RULES


@pytest.mark.parametrize("flag", ["owner", "dormant"])
def test_a_table_with_a_flag_is_read_whole(tables: Tables, flag: str) -> None:
    """libnftables up to 1.0.8 reads freed memory to print it as JSON."""
    rules = pod.build(Capture.parse({"exclude_outbound_networks": ["192.0.2.0/24"], "virtual_interfaces": ["br-*"]}))
    tables.load(nft.render(rules, flags=(flag,)))
    for _ in range(20):
        found = tables.read(POD_TABLE)
        assert found is not None
        # Whose a table is, is no matter of rules; the chains of a dormant one are not in force.
        assert (found == rules) == (flag == "owner")
        assert bool(found.foreign) == (flag == "dormant")


def test_without_the_right_to_it_is_a_matter_of_rights(namespace: Namespace) -> None:
    """Root without capabilities, as in a container, is not told that somebody holds the table."""

    def powerless() -> None:
        with closing(Tables()) as tables:
            # capset(2), version 3, for this thread alone: no capability left.
            assert not ctypes.CDLL(None).capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))
            tables.load(nft.render(RULES))

    with pytest.raises(PermissionMissing) as refused:
        namespace.run(powerless)
    assert "CAP_NET_ADMIN" in refused.value.hint


@pytest.fixture
def not_loaded() -> Iterator[None]:
    """Have the library loaded anew, in the test and after it."""
    binding.cache_clear()
    yield
    binding.cache_clear()


@pytest.mark.usefixtures("not_loaded")
def test_a_missing_library_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.kernel.nftables._LIBRARY", "libnftables.so.none")
    with pytest.raises(LibraryMissing, match=r"libnftables\.so\.none") as missing:
        Tables()
    assert "python3-nftables" in missing.value.hint


@pytest.mark.usefixtures("not_loaded")
def test_a_missing_binding_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nftables", None)
    with pytest.raises(LibraryMissing, match="libnftables can't be loaded"):
        Tables()


# What runs under observation: a process that is up, then applies, reads and removes, in a namespace by its name.
WORK = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from agent.kernel import routing
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from rulesets import nft, pod
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.routing import NO_ROUTING, RoutingPlan, build
from rulesets.vocabulary import Family

def work():
    rules, routes = pod.build(Capture()), build(Capture(), tuple(Family))
    handle = Handle(Netns(sys.argv[1]))
    with handle.inside():
        routing.apply(RoutingPlan(actual=NO_ROUTING, desired=routes))
    handle.apply(diff(None, rules))
    assert handle.read("weir-pod") == rules
    handle.apply(diff(rules, pod.build(Capture(dns=False))))
    handle.apply(diff(handle.read("weir-pod"), None))
    with handle.inside():
        routing.apply(RoutingPlan(actual=routes, desired=NO_ROUTING))
    handle.close()

with ThreadPoolExecutor(1) as worker:
    worker.submit(work).result()
if sys.argv[2:]:
    os.execvp(sys.argv[2], sys.argv[2:])
print("done")
"""


def executed(namespace: Namespace, folder: Path, *more: str) -> list[str]:
    """What the kernel saw executed, by the process or any child of it, from its start on."""
    log = folder / "log"
    traced = ["strace", "-f", "-qq", "-e", "trace=execve,execveat", "-e", "signal=none", "-o", str(log)]
    command = [*traced, sys.executable, "-c", WORK, namespace.name, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"
    return [line.partition(" ")[2].strip() for line in log.read_text().splitlines()]


def test_nothing_is_executed_to_apply_read_and_remove(namespace: Namespace, tmp_path: Path) -> None:
    before = ruleset(namespace)
    calls = executed(namespace, tmp_path)
    assert len(calls) == 1, calls  # the interpreter itself
    assert Path(sys.executable).name in calls[0]
    assert ruleset(namespace) == before


def test_an_execution_would_be_seen(namespace: Namespace, tmp_path: Path) -> None:
    """The test above can fail."""
    calls = executed(namespace, tmp_path, "echo", "done")
    assert any('"echo"' in call for call in calls), calls
