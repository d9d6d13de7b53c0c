"""What is found to be another agent's, what is put back of it, and what a journal keeps: values, without a kernel."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.kernel.foreign_routing import ForeignEntry
from agent.kernel.iptables import Flavour
from agent.kernel.netns import Identity, identify
from agent.migration import old as old_rules
from agent.migration.findings import without
from agent.migration.journal import Journal, Progress, Step
from agent.migration.old import Old, OldNft, chains_of
from agent.migration.owners import chains_by_owner, is_istios_in_pod
from agent.migration.parts import restoration
from agent.sources import file as target_file
from rulesets import iptables, pod
from rulesets.capture import Capture
from rulesets.iptables import parse, removal
from rulesets.model import Ruleset
from rulesets.vocabulary import Family
from tests import istio_values
from tests.istio_saves import istio_save
from tests.test_cli_help import weir

SAVES = Path(__file__).parent / "saves"
HERE = "/proc/self/ns/net"


def chains(text: str, family: Family = Family.IPV4) -> dict[str, tuple[str, ...]]:
    return chains_by_owner(parse(text, family))


@pytest.mark.parametrize("family", Family)
def test_each_agents_chains_are_told_by_name_and_effect(family: Family) -> None:
    text = istio_save(family)
    named = {f"{table}/ISTIO_{way}" for table in ("raw", "mangle", "nat") for way in ("OUTPUT", "PRERT")}
    assert {owner: set(names) for owner, names in chains(text, family).items()} == {"Istio": named}
    ciliums = text.replace("ISTIO_PRERT", "CILIUM_PREROUTING").replace("ISTIO_", "CILIUM_")
    assert list(chains(ciliums, family)) == ["Cilium"]
    weirs = iptables.render(iptables.translate(pod.build(Capture()), family), family)
    assert list(chains(weirs, family)) == ["Weir for iptables"]


@pytest.mark.parametrize(
    "save",
    [
        # A sidecar's, which has an ISTIO_OUTPUT too.
        (
            "*nat\n:ISTIO_OUTPUT - [0:0]\n:ISTIO_REDIRECT - [0:0]\n:ISTIO_PRERT - [0:0]\n-A OUTPUT -j ISTIO_OUTPUT\n"
            "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"
        ),
        # Cilium's on a node: no redirect to a proxy.
        "*nat\n:CILIUM_OUTPUT - [0:0]\n-A OUTPUT -j CILIUM_OUTPUT\n-A CILIUM_OUTPUT -j RETURN\nCOMMIT\n",
        *((SAVES / name).read_text() for name in ("kube-proxy.ipv4", "docker.ipv4")),
    ],
)
def test_others_chains_are_nobodys(save: str) -> None:
    assert not chains(save)


def test_istios_table_on_a_node_is_not_a_pods() -> None:
    assert all(is_istios_in_pod(each) for each in istio_values.istio_tables())
    assert not is_istios_in_pod(Ruleset(table="istio-ambient-nat"))


def kept(text: str, names: frozenset[str]) -> tuple[Ruleset, Ruleset]:
    """The rules that stay, and those again after all else was put back, as iptables-restore would understand both."""
    ruleset = parse(text, Family.IPV4)
    return without(ruleset, names), ruleset


def test_what_is_put_back_stands_where_it_stood() -> None:
    others = (SAVES / "kube-proxy.ipv4").read_text()
    first = "*nat\n:ISTIO_PRERT - [0:0]\n[3:180] -A ISTIO_PRERT -p tcp -j REDIRECT --to-ports 15006\n"
    text = others.replace("*nat\n", first, 1)
    at = text.index("-A PREROUTING", text.index("*nat"))
    at = text.index("\n", at) + 1
    text = text[:at] + "-A PREROUTING -j ISTIO_PRERT\n" + text[at:]
    names = frozenset(name for some in chains(text).values() for name in some)
    assert names == {"nat/ISTIO_PRERT"}
    left, whole = kept(text, names)
    saved = chains_of(whole, Flavour.LEGACY, names)
    assert restoration(left, saved).splitlines() == [
        "*nat",
        ":ISTIO_PRERT - [0:0]",
        "-A ISTIO_PRERT -p tcp -j REDIRECT --to-ports 15006 -c 3 180",
        "-I PREROUTING 2 -j ISTIO_PRERT -c 0 0",
        "COMMIT",
    ]
    # What is there already is filled anew, and led to once.
    assert [line[:2] for line in restoration(whole, saved).splitlines()] == ["*n", ":I", "-A", "CO"]
    assert "ISTIO" not in repr(left)
    assert removal(left, names) == ""


def an_old() -> Old:
    save = parse(istio_save(Family.IPV4), Family.IPV4)
    names = frozenset(chains_by_owner(save)["Istio"])
    entry = ForeignEntry(family=Family.IPV6, table=100, text="ip -6 rule: all", message=b"\0\x01\xff")
    return Old(
        owners=("Istio",),
        chains=(chains_of(save, Flavour.NFT, names),),
        nft=(OldNft(table="istio-ambient-nat", text="table inet istio-ambient-nat {\n}\n"),),
        rules=(entry,),
        routes=(dataclasses.replace(entry, text="route"),),
    )


def test_what_is_kept_for_the_way_back_is_read_as_it_was() -> None:
    old = an_old()
    assert old_rules.parse(json.loads(json.dumps(old.document()))) == old


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"name": 1}', b'{"step": "save"}', b"\xff\xfe", b"[" * 100_000])
def test_a_journal_counts_for_its_namespace_and_where_it_can_be_read(tmp_path: Path, damage: bytes) -> None:
    journal, here = Journal(tmp_path), identify(HERE)
    assert here is not None
    progress = Progress(name="web", netns=HERE, cookie=7, step=Step.REMOVE, old=an_old())
    journal.write(here, progress)
    assert journal.read(here, 7) == progress
    assert journal.read(here, 8) is None
    assert journal.read(Identity(here.device, here.inode + 1), 7) is None
    assert journal.unfinished() == (progress,)
    journal.write(here, dataclasses.replace(progress, step=Step.MIGRATED))
    assert not journal.unfinished()
    (file,) = (tmp_path / "migrations").iterdir()
    file.write_bytes(damage)
    assert journal.read(here, 7) is None
    assert not journal.unfinished()
    journal.write(here, dataclasses.replace(progress, netns="../.."))
    assert journal.read(here, 7) is None
    assert not journal.unfinished()


def test_journals_of_namespaces_that_have_gone_are_cleared_away(tmp_path: Path) -> None:
    journal, here = Journal(tmp_path), identify(HERE)
    assert here is not None
    for identity, netns in ((here, HERE), (Identity(1, 2), "no-such-namespace")):
        journal.write(identity, Progress(name="web", netns=netns, cookie=7, step=Step.SAVE, old=Old()))
    journal.clear_away()
    assert [each.name for each in (tmp_path / "migrations").iterdir()] == [f"{here.device}-{here.inode}.json"]


def test_the_steps_lead_one_way_each() -> None:
    steps = [Progress(name="", netns=HERE, cookie=0, step=step, old=Old()) for step in Step]
    assert [each.step for each in steps if each.done] == [Step.MIGRATED, Step.RETURNED]
    assert [each.back for each in steps] == [False] * 8 + [True] * 7


# The file, and the command line where no root is needed.


@pytest.mark.parametrize(
    ("defaults", "own", "wanted"),
    [("", "", False), ("migrate = true", "", True), ("migrate = true", "migrate = false", False)],
)
def test_a_file_says_where_the_daemon_may_migrate(defaults: str, own: str, wanted: bool) -> None:
    text = f'[defaults]\n{defaults}\n[[target]]\nname = "web"\nnetns = "web"\n{own}\n'
    read = target_file.parse(text, "weir.toml")
    (target,) = read.targets
    assert target.migrate is wanted
    assert target_file.changed(target, {"dns": False}).migrate is wanted
    # A namespace that the file doesn't name has its defaults.
    assert target_file.target("other", "other", read.defaults).migrate is bool(defaults)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[[target]]\nname = "web"\nnetns = "web"\nmigrate = "yes"', "weir.toml:4: target 'web'"),
        ('[defaults]\nmigrate = 1\n[[target]]\nname = "web"\nnetns = "web"', "weir.toml:2: defaults"),
    ],
)
def test_any_other_value_is_refused_at_its_line(text: str, where: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(where)) as refused:
        target_file.parse(text, "weir.toml")
    assert "wants true or false" in str(refused.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("migrate", "weir: migrate: wants targets, or --netns\n"),
        ("migrate web --expect address-keep", "weir: migrate: --expect 'address-keep': no difference is called so\n"),
        ("migrate web --back --accept-differences", "weir: migrate: --accept-differences beside --back, which "),
        ("migrate web --back --expect address-kept", "weir: migrate: --expect beside --back, which compares nothing\n"),
    ],
)
def test_a_line_that_makes_no_sense_changes_nothing(line: str, said: str) -> None:
    done = weir(*line.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
