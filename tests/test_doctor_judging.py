"""What the doctor makes of facts: values in, findings out. No root, no kernel."""

from pathlib import Path

import pytest

from agent.doctor import conntrack, foreign, kernel_features, machine, settings
from agent.doctor.findings import Diagnosis, Finding, Level, ordered, placed
from agent.doctor.kernel_features import Build
from agent.kernel.features import FEATURES
from agent.kernel.features import Finding as Proven
from agent.kernel.ipv6 import Ipv6
from agent.kernel.policy_rules import Link
from agent.kernel.tablequery import BaseChain, TableName
from agent.migration.journal import Progress, Step
from agent.migration.old import Old
from agent.targets import Rival
from rulesets.capture import Capture
from rulesets.vocabulary import Family

CAPTURE = Capture()
GIB = 2**30
V4 = Family.IPV4


def finding(level: Level, check: str = "x") -> Finding:
    return Finding(check=check, level=level, what="w", why="y")


@pytest.mark.parametrize(
    ("levels", "code"),
    [((), 0), (("note",), 0), (("warning", "note"), 1), (("unchecked",), 1), (("note", "warning", "error"), 2)],
)
def test_the_worst_finding_is_the_exit_code(levels: tuple[str, ...], code: int) -> None:
    found = ordered(finding(Level(each)) for each in levels)
    assert Diagnosis(findings=found, examined=("node",), checks=1).code == code
    assert [str(each.level) for each in found] == sorted(levels, key=[str(each) for each in Level].index)


def test_where_nothing_is_wanted_all_is_a_note_but_what_nobody_knows() -> None:
    found = placed([finding(Level.ERROR), finding(Level.UNCHECKED)], "node", wanted=False)
    assert [(each.where, each.level) for each in found] == [("node", Level.NOTE), ("node", Level.UNCHECKED)]


# Connection tracking


@pytest.mark.parametrize(
    ("count", "level"), [(0, None), (749, None), (750, "warning"), (949, "warning"), (950, "error"), (1001, "error")]
)
def test_a_table_that_fills(count: int, level: str | None) -> None:
    found = [str(each.level) for each in conntrack.judge(conntrack.Tracking(count=count, maximum=1000))]
    assert found == ([level] if level else [])


def test_the_full_table_s_finding_says_numbers_and_what_to_do() -> None:
    (found,) = conntrack.judge(conntrack.Tracking(count=990, maximum=1000))
    assert found.what == "990 of 1000 connections are tracked (99%)"
    assert found.command == "sysctl -w net.netfilter.nf_conntrack_max=2000"


@pytest.mark.parametrize(
    ("found", "checks"),
    [
        (conntrack.Tracking(), []),
        (conntrack.Tracking(maximum=262144, buckets=262144, memory=8 * GIB), []),
        (conntrack.Tracking(maximum=262144, buckets=65536, memory=8 * GIB), []),
        (conntrack.Tracking(maximum=262145 * 4, buckets=65536, memory=8 * GIB), ["conntrack-buckets"]),
        (conntrack.Tracking(maximum=8_000_000, buckets=8_000_000, memory=8 * GIB), ["conntrack-memory"]),
        (conntrack.Tracking(maximum=32768, buckets=32768, memory=8 * GIB), ["conntrack-small"]),
        (conntrack.Tracking(maximum=32768, buckets=32768, memory=GIB // 2), []),
    ],
)
def test_the_size_of_the_table(found: conntrack.Tracking, checks: list[str]) -> None:
    assert [each.check for each in conntrack.judge_size(found)] == checks


@pytest.mark.parametrize(
    ("established", "keepalive", "checks"),
    [(432000, 7200, []), (7200, 7200, []), (7199, 7200, ["conntrack-timeout"]), (600, 60, []), (600, None, [])],
)
def test_a_time_out_that_is_shorter_than_the_keepalive(
    established: int, keepalive: int | None, checks: list[str]
) -> None:
    found = conntrack.Tracking(established=established, keepalive=keepalive, loose=1)
    assert [each.check for each in conntrack.judge(found)] == checks


# The kernel


def proven(name: str, *, present: bool = False) -> Proven:
    feature = next(each for each in FEATURES if each.name == name)
    return Proven(feature=feature, present=present, said="EOPNOTSUPP (Operation not supported)")


@pytest.mark.parametrize(
    ("build", "do", "command"),
    [
        (Build(release="6.1.0"), "take a kernel with CONFIG_NFT_REDIR, of Linux 5.2 or later (this is 6.1.0)", ""),
        (Build(release="6.1.0", options={}), "the kernel 6.1.0 was built without CONFIG_NFT_REDIR", ""),
        (
            Build(release="6.1.0", options={"CONFIG_NFT_REDIR": "m"}, modules=frozenset({"nft_redir"})),
            "load the module nft_redir",
            "modprobe nft_redir",
        ),
        (
            Build(release="6.1.0", options={"CONFIG_NFT_REDIR": "m"}, modules=frozenset()),
            "the module nft_redir is not installed",
            "",
        ),
        (Build(release="6.1.0", modules=frozenset({"nft_redir"})), "load the module nft_redir", "modprobe nft_redir"),
    ],
)
def test_a_missing_feature_names_option_and_module(build: Build, do: str, command: str) -> None:
    (found,) = kernel_features.judge([proven("redirect")], build)
    assert found.level is Level.ERROR
    assert "redirect is missing (CONFIG_NFT_REDIR)" in found.what
    assert found.do.startswith(do)
    assert found.command == command


def test_a_feature_s_level_is_what_is_lost_without_it() -> None:
    names = ("redirect", "connection zones", "owned tables that persist")
    found = kernel_features.judge([proven(each) for each in names], Build(release="6"))
    assert [str(each.level) for each in found] == ["error", "warning", "note"]
    assert not list(kernel_features.judge([proven(each, present=True) for each in names], Build(release="6")))


def test_how_a_kernel_was_built_is_read_from_its_files(tmp_path: Path) -> None:
    release = kernel_features.read_build(tmp_path).release
    assert kernel_features.read_build(tmp_path) == Build(release=release)
    folder = tmp_path / "lib/modules" / release
    folder.mkdir(parents=True)
    (folder / "config").write_text("# CONFIG_NFT_NAT is not set\nCONFIG_NFT_CT=m\n")
    (folder / "modules.dep").write_text("kernel/net/netfilter/nft-ct.ko.zst: kernel/a/nf_conntrack.ko.zst\n")
    build = kernel_features.read_build(tmp_path)
    assert build.options == {"CONFIG_NFT_CT": "m"}
    assert build.modules == frozenset({"nft_ct"})


# Settings of a namespace


@pytest.mark.parametrize(
    ("found", "capture", "levels"),
    [
        (settings.Settings(), CAPTURE, []),
        (settings.Settings(ipv6=Ipv6.OFF), CAPTURE, []),
        (settings.Settings(ipv6=Ipv6.OFF_ON_LOOPBACK), CAPTURE, ["error"]),
        (settings.Settings(ipv6=Ipv6.OFF_ON_LOOPBACK), Capture(families=(V4,)), []),
        (settings.Settings(without_ipv6=("eth1",)), CAPTURE, ["note"]),
        (settings.Settings(localnet=("eth0",)), CAPTURE, []),
        (settings.Settings(localnet=("eth0",)), Capture(outbound=False, dns=False), ["warning"]),
    ],
)
def test_settings_that_are_in_the_way(found: settings.Settings, capture: Capture, levels: list[str]) -> None:
    assert [str(each.level) for each in settings.judge(found, capture)] == levels


@pytest.mark.parametrize(
    ("found", "checks"),
    [
        (settings.Settings(forwards=1), []),
        (settings.Settings(forwards=0), ["ip-forward"]),
        (settings.Settings(forwards=1, deaf_to_routers=("eth0",)), ["accept-ra"]),
    ],
)
def test_settings_of_a_node(found: settings.Settings, checks: list[str]) -> None:
    assert [each.check for each in settings.judge_node(found, has_pods=True)] == checks
    assert "ip-forward" not in [each.check for each in settings.judge_node(found, has_pods=False)]


# The machine


def test_a_machine_without_faults_and_one_with_all() -> None:
    assert not list(machine.judge(machine.Machine(files=65536, openable=9_000_000)))
    begun = Progress(
        name="web", netns="web", cookie=1, step=Step.TABLE, old=Old(owners=(), chains=(), nft=(), rules=(), routes=())
    )
    found = machine.Machine(
        daemon=7,
        files=1024,
        targets=500,
        opened=95,
        openable=100,
        inotify=8,
        no_cgroup2="no cgroup2 is mounted here",
        saved=(Path("/etc/nftables.conf"),),
        istio=(Path("/var/run/istio-cni/log.sock"),),
        unfinished=(begun,),
    )
    said = list(machine.judge(found))
    assert [each.check for each in said] == [
        "file-limit",
        "file-limit",
        "inotify-limit",
        "cgroups",
        "saved-ruleset",
        "other-agent",
        "migration",
    ]
    assert said[-1].command == "weir migrate --netns web"
    assert "500 targets take up to 4128" in said[0].what


# Foreign rules


def test_many_rivals_are_counted() -> None:
    many = [Rival(place=f"table {each}", packet="p", fate="is dropped") for each in range(9)]
    found = list(foreign.judge([Rival(place="t", why="unread"), *many]))
    assert [str(each.level) for each in found] == ["error"] * 5 + ["warning"]
    assert found[-1].what == "5 more rules of others are met before Weir's"


def test_cilium_is_a_note() -> None:
    (found,) = foreign.judge_sources((), [Link(index=3, name="cilium_host")])
    assert found.level is Level.NOTE


def test_a_source_chain_at_the_usual_priority_isn_t_read_as_earlier() -> None:
    table = TableName(family="ip", name="nat")
    chain = BaseChain(table=table, name="p", type="nat", hook=4, priority=90, rules=1, in_table=1, drops=False)
    assert [each.check for each in foreign.judge_sources([chain])] == ["source-translation"]
