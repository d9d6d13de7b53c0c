"""Which saved rulesets a daemon warns of at its start: those in which a table of Weir's stands."""

import os
from pathlib import Path

import pytest

from agent.daemon.saved import files_naming_our_tables

OURS = "table inet weir-pod {\n\tchain nat-out {\n\t}\n}\n"


@pytest.mark.parametrize(
    "text",
    [
        OURS,
        "#!/usr/sbin/nft -f\n\nflush ruleset\n\n" + OURS,
        "table ip nat { }\ntable inet weir-host { # progname python3\n\tflags owner\n}\n",
        "flush ruleset; table inet weir-pod { }",
        "add table inet weir-pod",
        "\t table   inet\tweir-pod\n{ }\n",
        "table inet weir-pod\n# and a comment\n{ }",
        "\ufeff\xff\x00" + OURS,
    ],
)
def test_a_file_with_a_table_of_ours_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "nftables.conf"
    file.write_bytes(text.encode("latin-1", errors="replace"))
    assert files_naming_our_tables((str(tmp_path),)) == (file,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flush ruleset\n",
        "# table inet weir-pod {\n",
        "table ip weir-pod { }\ntable ip6 weir-host { }\n",
        "table inet weir-podium { }\ntable inet weir { }\n",
        "table inet theirs { comment # table inet weir-pod {\n}\n",
        'include "/etc/elsewhere/*.nft"\n',
    ],
)
def test_a_file_without_one_is_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "nftables.conf").write_text(text)
    assert files_naming_our_tables((str(tmp_path),)) == ()


def test_what_is_looked_at_is_what_distributions_load(tmp_path: Path) -> None:
    """Debian and Arch, Fedora, Alpine; and what they include, where it lies beside them."""
    named = [
        tmp_path / "nftables.conf",
        tmp_path / "nftables.nft",
        tmp_path / "nftables.d" / "weir.nft",
        tmp_path / "nftables" / "deep" / "below" / "main.nft",
        tmp_path / "sysconfig" / "nftables.conf",
    ]
    others = [tmp_path / "weir.nft", tmp_path / "elsewhere" / "nftables.conf", tmp_path / "iptables" / "rules.v4"]
    for each in (*named, *others):
        each.parent.mkdir(parents=True, exist_ok=True)
        each.write_text(OURS)
    (tmp_path / "nftables.conf").write_text(f'include "/etc/nftables.d/*.nft"\n{OURS}')
    places = (str(tmp_path), str(tmp_path / "sysconfig"), str(tmp_path / "not-there"))
    assert files_naming_our_tables(places) == tuple(sorted(named))


def test_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "nftables-dangling.conf").symlink_to(tmp_path / "nowhere")
    (tmp_path / "nftables-loop.conf").symlink_to(tmp_path / "nftables-loop.conf")
    (tmp_path / "nftables.d").mkdir()
    (tmp_path / "nftables.d" / "up").symlink_to(tmp_path)
    (tmp_path / "nftables.d" / "bytes.nft").write_bytes(bytes(range(256)) * 100)
    secret = tmp_path / "nftables.secret"
    secret.write_text(OURS)
    secret.chmod(0)
    found = files_naming_our_tables((str(tmp_path),))
    assert found == ((secret,) if os.geteuid() == 0 else ())


@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "nftables.fifo")
    (tmp_path / "nftables.d").mkdir()
    os.mkfifo(tmp_path / "nftables.d" / "fifo.nft")
    assert files_naming_our_tables((str(tmp_path),)) == ()
