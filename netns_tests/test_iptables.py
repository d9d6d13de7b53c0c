"""iptables' rules on the kernel, in both flavours and families: put in, read back, taken out; what is in the way."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agent.errors import KernelError, LockHeld, ProgramMissing
from agent.kernel import iptables as kernel
from agent.kernel.iptables import Flavour, Presence
from netns_tests.namespace import Namespace
from rulesets import iptables
from rulesets.model import Chain, Counter, Rule, Ruleset
from rulesets.vocabulary import (
    Accept,
    ChainType,
    Family,
    Hook,
    InIpset,
    LocalAddress,
    NoTcpFlags,
    PortRange,
    Protocol,
    SrcPort,
    TcpFlag,
)
from tests import iptables_goldens, iptables_strategies, scenarios

GOLDENS = {each.name: each.ruleset for each in scenarios.anywhere()}
BOTH = list(product(Flavour, Family))
SAVES = sorted((Path(__file__).parent.parent / "tests/saves").iterdir())
_UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
many = hypothesis_settings(max_examples=40, deadline=None, database=None, suppress_health_check=_UNCHECKED)


@pytest.fixture
def namespace(root: None) -> Iterator[Namespace]:
    with Namespace.create("iptables") as made:
        yield made


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of the test's own: the usual one belongs to the machine, and others' suites run there."""
    lock = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    return lock


def restored(namespace: Namespace, flavour: Flavour, family: Family, text: str) -> None:
    """Load a whole save by hand."""
    namespace.command(f"{iptables.PROGRAMS[family]}-{flavour}-restore", stdin=text)


def saved(namespace: Namespace, flavour: Flavour, family: Family) -> str:
    """What iptables-save prints by hand, less its comments: they have the time in them."""
    text = namespace.command(f"{iptables.PROGRAMS[family]}-{flavour}-save")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


def by_table(text: str) -> list[str]:
    return sorted(text.split("COMMIT\n"))


@pytest.mark.parametrize("name", GOLDENS)
@pytest.mark.parametrize(("flavour", "family"), BOTH)
def test_a_golden_reads_back_equal(namespace: Namespace, flavour: Flavour, family: Family, name: str) -> None:
    if iptables_goldens.rendered(GOLDENS[name], family).startswith("#"):
        return  # the golden says that iptables can't express it
    wanted = iptables.translate(GOLDENS[name], family)
    restored(namespace, flavour, family, iptables.render(wanted, family))
    assert namespace.run(kernel.read, flavour, family) == wanted
    assert by_table(saved(namespace, flavour, family)) == by_table(iptables.render(wanted, family))


@pytest.mark.parametrize(("flavour", "family"), BOTH)
def test_whatever_can_be_rendered_reads_back_equal(namespace: Namespace, flavour: Flavour, family: Family) -> None:
    @many
    @given(st.data())
    def each(data: st.DataObject) -> None:
        ruleset = data.draw(iptables_strategies.own(family).filter(_needs_no_set))
        text = iptables.render(ruleset, family)
        try:
            restored(namespace, flavour, family, text)
        except RuntimeError as error:
            raise AssertionError(f"{error}\n{text}") from error
        found = namespace.run(kernel.read, flavour, family)
        named = {chain.name.partition("/")[0] for chain in ruleset.chains}
        assert [each for each in found.chains if each.name.partition("/")[0] in named] == list(ruleset.chains), text
        assert [each for each in found.regular if each.name.partition("/")[0] in named] == list(ruleset.regular), text

    each()


@pytest.mark.parametrize(("flavour", "family"), BOTH)
def test_flags_stand_with_the_ports_wherever_they_are_asked_for(
    namespace: Namespace, flavour: Flavour, family: Family
) -> None:
    port, flags = SrcPort(protocol=Protocol.TCP, ports=PortRange(1, 1)), NoTcpFlags(among=(TcpFlag.FIN,))
    rule = Rule(slug="x", matches=(port, LocalAddress(), flags), action=Accept())
    chain = Chain(name="x", type=ChainType.FILTER, hook=Hook.POSTROUTING, priority=-150, rules=(rule,))
    wanted = iptables.translate(Ruleset(table="x", chains=(chain,), counters=(Counter(name="x"),)), family)
    restored(namespace, flavour, family, iptables.render(wanted, family))
    assert namespace.run(kernel.read, flavour, family) == wanted


def _needs_no_set(ruleset: Ruleset) -> bool:
    return not any(isinstance(match, InIpset) for rule in ruleset.rules() for match in rule.matches)


@pytest.mark.parametrize("path", SAVES, ids=lambda path: path.name)
@pytest.mark.parametrize("flavour", Flavour)
def test_saves_of_others_lose_no_line_and_come_back(namespace: Namespace, flavour: Flavour, path: Path) -> None:
    family, text = Family(path.suffix[1:]), path.read_text()
    restored(namespace, flavour, family, text)
    assert by_table(saved(namespace, flavour, family)) == by_table(text)
    found = namespace.run(kernel.read, flavour, family)
    assert sum(1 for _ in found.rules()) == text.count("\n-A ")
    assert by_table(iptables.render(found, family)) == by_table(text)


@pytest.mark.parametrize("path", SAVES, ids=lambda path: path.name)
@pytest.mark.parametrize("flavour", Flavour)
def test_what_is_put_in_and_taken_out_leaves_others_as_they_were(
    namespace: Namespace, flavour: Flavour, path: Path
) -> None:
    family, text = Family(path.suffix[1:]), path.read_text()
    restored(namespace, flavour, family, text)
    wanted = iptables.translate(GOLDENS["exclusions"], family)
    for _ in range(2):
        namespace.run(kernel.install, flavour, wanted)
        found = namespace.run(kernel.read, flavour, family)
        assert set(wanted.regular) <= set(found.regular)
        for chain in wanted.chains:
            there = found.chain(chain.name)
            assert there is not None
            assert there.rules[: len(chain.rules)] == chain.rules
            assert sum(rule in chain.rules for rule in there.rules) == len(chain.rules)
    ours = [chain.name for chain in wanted.regular]
    for _ in range(2):
        namespace.run(kernel.remove, flavour, family, ours)
    left = [table for table in by_table(saved(namespace, flavour, family)) if "-A " in table or ":KUBE" in table]
    assert left == [table for table in by_table(text) if "-A " in table or ":KUBE" in table]


def test_counters_are_read(namespace: Namespace) -> None:
    family = Family.IPV4
    text = iptables.render(iptables.translate(GOLDENS["dual-stack"], family), family)
    counted = text.replace("-A OUTPUT -j", "[7:420] -A OUTPUT -j")
    namespace.command("iptables-legacy-restore", "--counters", stdin=counted)
    chain = namespace.run(kernel.read, Flavour.LEGACY, family).chain("nat/OUTPUT")
    assert chain is not None
    assert [(rule.count.packets, rule.count.bytes) for rule in chain.rules if rule.count] == [(7, 420)]


def presence(namespace: Namespace, flavour: Flavour, family: Family) -> Presence:
    found = namespace.run(kernel.look)
    return next(each for each in found if (each.flavour, each.family) == (flavour, family))


def test_looking_and_reading_make_no_table(namespace: Namespace) -> None:
    for flavour, family in BOTH:
        assert presence(namespace, flavour, family).tables == ()
        found = namespace.run(kernel.read, flavour, family)
        assert (found.chains, found.regular) == ((), ())
    assert namespace.command("cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names") == ""
    assert namespace.command("nft", "list", "tables") == ""


def test_rules_of_both_flavours_at_once_are_found(namespace: Namespace) -> None:
    restored(namespace, Flavour.LEGACY, Family.IPV4, "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n")
    restored(namespace, Flavour.NFT, Family.IPV4, "*mangle\n-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff\nCOMMIT\n")
    assert presence(namespace, Flavour.LEGACY, Family.IPV4).tables == ("nat",)
    assert presence(namespace, Flavour.NFT, Family.IPV4).tables == ("mangle",)
    assert presence(namespace, Flavour.NFT, Family.IPV6).tables == ()
    for flavour, table in ((Flavour.LEGACY, "nat"), (Flavour.NFT, "mangle")):
        chain = namespace.run(kernel.read, flavour, Family.IPV4).chain(f"{table}/OUTPUT")
        assert chain is not None
        assert len(chain.rules) == 1


def test_a_table_that_iptables_did_not_write_is_said_to_be_one(namespace: Namespace) -> None:
    namespace.nft("table ip nat { map m { type ipv4_addr : ipv4_addr; }; chain c { dnat to ip daddr map @m; }; }")
    with pytest.raises(KernelError, match="holds what iptables doesn't write"):
        namespace.run(kernel.read, Flavour.NFT, Family.IPV4)


def hold(lock: Path) -> subprocess.Popen[bytes]:
    """Hold the lock in another process, as a program of iptables does."""
    script = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    return holder


def test_a_held_lock_is_waited_for_no_longer_than_said(namespace: Namespace, own_lock: Path) -> None:
    text = "*nat\n-A OUTPUT -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n"
    holder = hold(own_lock)
    try:
        began = time.monotonic()
        with pytest.raises(LockHeld, match=rf"xtables lock for 1 s: process {holder.pid} has it"):
            namespace.run(lambda: kernel.restore(Flavour.LEGACY, Family.IPV4, text, wait=1))
        assert 0.9 < time.monotonic() - began < 20
        assert namespace.run(kernel.save, Flavour.LEGACY, Family.IPV4).count("-A") == 0
        # The other flavour has no lock, and nobody has to wait for it.
        namespace.run(lambda: kernel.restore(Flavour.NFT, Family.IPV4, text, wait=1))
    finally:
        holder.kill()
        holder.communicate()
    namespace.run(lambda: kernel.restore(Flavour.LEGACY, Family.IPV4, text, wait=1))
    assert namespace.run(kernel.save, Flavour.LEGACY, Family.IPV4).count("-A") == 1


@pytest.mark.parametrize("flavour", Flavour)
def test_a_refused_line_is_named_and_its_table_unchanged(namespace: Namespace, flavour: Flavour) -> None:
    text = "*nat\n:X - [0:0]\n-A X -j ACCEPT\n-A X -p tcp -j NO-SUCH-CHAIN\nCOMMIT\n"
    with pytest.raises(KernelError, match="NO-SUCH-CHAIN"):
        namespace.run(kernel.restore, flavour, Family.IPV4, text)
    assert namespace.run(kernel.save, flavour, Family.IPV4).count("-A X") == 0


def test_without_its_programs_looking_still_works(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored(namespace, Flavour.LEGACY, Family.IPV4, "*nat\nCOMMIT\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kernel, "_PATH", str(tmp_path))
    found = presence(namespace, Flavour.LEGACY, Family.IPV4)
    assert (found.tables, found.programs) == (("nat",), False)
    assert str(found) == "iptables-legacy: nat (its programs are not installed)"
    with pytest.raises(ProgramMissing, match="iptables-legacy-save is not installed"):
        namespace.run(kernel.read, Flavour.LEGACY, Family.IPV4)
    assert namespace.run(kernel.read, Flavour.LEGACY, Family.IPV6).chains == ()


def test_a_plain_name_is_taken_for_the_flavour_behind_it(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = shutil.which("xtables-legacy-multi", path="/usr/sbin:/sbin")
    assert behind is not None
    for name in ("iptables-save", "iptables-restore"):
        (tmp_path / name).symlink_to(behind)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kernel, "_PATH", str(tmp_path))
    assert presence(namespace, Flavour.LEGACY, Family.IPV4).programs
    assert not presence(namespace, Flavour.NFT, Family.IPV4).programs
    namespace.run(kernel.restore, Flavour.LEGACY, Family.IPV4, "*nat\n-A OUTPUT -j ACCEPT\nCOMMIT\n")
    assert namespace.run(kernel.save, Flavour.LEGACY, Family.IPV4).count("-A") == 1


@pytest.mark.parametrize(("flavour", "family"), BOTH)
def test_what_is_installed_redirects_as_the_nftables_table_does(
    namespace: Namespace, flavour: Flavour, family: Family
) -> None:
    """The excluded network and port go out, the rest comes to the proxy, but for what the proxy itself dials."""
    v4 = family is Family.IPV4
    kind, loopback = (socket.AF_INET, "127.0.0.1") if v4 else (socket.AF_INET6, "::1")
    outside = ("198.51.100.1", "10.1.2.3") if v4 else ("2001:db8::1", "fd99:1::3")
    namespace.ip(
        "link add out0 type veth peer name out1",
        "link set out0 up",
        "link set out1 up",
        f"addr add {'192.0.2.1/24' if v4 else '2001:db8:1::1/64'} dev out0",
        f"route add {'default' if v4 else '::/0'} dev out0",
    )
    namespace.run(kernel.install, flavour, iptables.translate(GOLDENS["inclusions-and-exclusions"], family))
    with namespace.socket(kind) as listener:
        listener.bind((loopback, 15001))
        listener.listen()
        listener.settimeout(5)

        def arrives(address: str, port: int, mark: int = 0) -> bool:
            with namespace.socket(kind) as client:
                client.settimeout(0.3)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
                try:
                    client.connect((address, port))
                except OSError:
                    return False
                listener.accept()[0].close()
                return True

        included = "10.9.9.9" if v4 else "fd00::9"
        assert arrives(included, 8000)
        assert arrives(included, 8100)
        assert not arrives(included, 8101)
        assert not arrives(included, 8080)
        assert not arrives(included, 8000, mark=0x539)
        assert not any(arrives(address, 8000) for address in outside)
