"""Legacy rules: which flavour of iptables holds some, what they are, and changes through iptables' own programs.

The programs are the one stable interface: both flavours' formats in the kernel are private to them. Only here is one
started. All functions act in the namespace of the calling thread. Looking starts no program and loads no module of
iptables': iptables-legacy-save would make tables where there are none (iptables(8), "table does not exist").
"""

import os
import re
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent.errors import FeatureMissing, KernelError, LockHeld, ProgramMissing
from agent.kernel import legacy
from agent.kernel.attributes import attributes
from agent.kernel.rawnetlink import RawNetlink
from rulesets.iptables import PROGRAMS, SaveError, installation, parse, removal
from rulesets.model import Ruleset
from rulesets.netlink import constants as c
from rulesets.vocabulary import Family

TABLES = ("raw", "mangle", "nat", "filter", "security")
LOCK_WAIT = 5  # seconds
# What a program may take beyond that: 100,000 rules are restored in 2 s.
_LONGEST = 60
_NETLINK_NETFILTER = 12  # include/uapi/linux/netlink.h
_FAMILIES = {Family.IPV4: c.NFPROTO_IPV4, Family.IPV6: c.NFPROTO_IPV6}
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
# iptables/xtables.h and include/xtables.h: enum xtables_exittype.
_RESOURCE_PROBLEM = 4
# iptables/nft.c: a rule that nft wrote, or a base chain, which it leaves out of what it prints.
_INCOMPATIBLE = re.compile(r"^# Table `\S*' (is incompatible|contains incompatible base-chains), use", re.MULTILINE)
_LOCK_FILE = "/run/xtables.lock"


class Flavour(StrEnum):
    """Where iptables keeps its rules: in the kernel's ip_tables, or in nf_tables."""

    LEGACY = "legacy"
    NFT = "nft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What a look finds of one flavour and family.

    `tables` are those that exist in the namespace, with rules or without. `kernel` says whether the kernel has the
    flavour (for legacy: loaded by now), `programs` whether save and restore are there.
    """

    flavour: Flavour
    family: Family
    tables: tuple[str, ...]
    kernel: bool
    programs: bool

    def __str__(self) -> str:
        name = f"{PROGRAMS[self.family]}-{self.flavour}"
        if not self.kernel:
            return f"{name}: not in the kernel"
        tables = ", ".join(self.tables) or "no tables"
        return f"{name}: {tables}{'' if self.programs else ' (its programs are not installed)'}"


def look() -> tuple[Presence, ...]:
    """Return what there is of both flavours, for both families: no rule is read, nothing is started or loaded."""
    return tuple(_presence(flavour, family) for flavour in Flavour for family in Family)


def _presence(flavour: Flavour, family: Family) -> Presence:
    tables = legacy.tables(family) if flavour is Flavour.LEGACY else _nft_tables(family)
    return Presence(
        flavour=flavour,
        family=family,
        tables=tuple(each for each in TABLES if tables and each in tables),
        kernel=tables is not None,
        programs=_find(flavour, family, "save") is not None and _find(flavour, family, "restore") is not None,
    )


def _nft_tables(family: Family) -> frozenset[str] | None:
    statement = f"nft list tables {'ip' if family is Family.IPV4 else 'ip6'}"
    header = bytes((_FAMILIES[family], 0, 0, 0))  # struct nfgenmsg
    try:
        with RawNetlink(_NETLINK_NETFILTER, feature="nf_tables", option="CONFIG_NF_TABLES") as netlink:
            kind = c.NFNL_SUBSYS_NFTABLES << 8 | c.NFT_MSG_GETTABLE
            answer = netlink.dump(kind, header, statement=statement).expect(statement)
    except FeatureMissing:
        return None
    told = (attributes(body, len(header)) for body in answer)
    return frozenset(each[c.NFTA_TABLE_NAME].rstrip(b"\0").decode(errors="replace") for each in told)


def save(flavour: Flavour, family: Family) -> str:
    """Return what iptables-save prints, with counters; empty where the flavour has no tables in this namespace.

    Raises `ProgramMissing` where there are tables and no program to read them with.
    """
    if not _presence(flavour, family).tables:
        return ""
    return _run(flavour, family, "save", "--counters")


def read(flavour: Flavour, family: Family) -> Ruleset:
    """Return the rules of one flavour and family. Raises `ProgramMissing`, or `KernelError` for what can't be read."""
    text = save(flavour, family)
    try:
        return parse(text, family)
    except SaveError as error:
        raise KernelError(statement=f"{PROGRAMS[family]}-{flavour}-save", said=str(error)) from None


def install(flavour: Flavour, wanted: Ruleset, *, wait: int = LOCK_WAIT) -> None:
    """Put chains in, and have them met first; every other rule stays as it is. See `restore`."""
    if wanted.family is None:
        raise ValueError("only rules of iptables' own, of one family, are installed")
    restore(flavour, wanted.family, installation(read(flavour, wanted.family), wanted), wait=wait)


def remove(flavour: Flavour, family: Family, chains: Collection[str], *, wait: int = LOCK_WAIT) -> None:
    """Take chains out, by their names (``nat/DOCKER``), with all that jumps to them. What isn't there is done."""
    restore(flavour, family, removal(read(flavour, family), chains), wait=wait)


def restore(flavour: Flavour, family: Family, text: str, *, wait: int = LOCK_WAIT) -> None:
    """Give a text to iptables-restore, which leaves alone what the text doesn't name. Nothing is done for no text.

    A table changes in one step. In the legacy flavour several change one after the other, so when a later one is
    refused those before it have changed. `wait` is in seconds, for the lock that all programs of the legacy flavour
    share, in whatever namespace they are: `LockHeld` when it is not free by then. Raises `ProgramMissing`, and
    `KernelError` for what is refused.
    """
    if text:
        _run(flavour, family, "restore", "--noflush", "--wait", str(wait), stdin=text, patience=wait)


def _run(flavour: Flavour, family: Family, program: str, *arguments: str, stdin: str = "", patience: int = 0) -> str:
    found = _find(flavour, family, program)
    name = f"{PROGRAMS[family]}-{flavour}-{program}"
    if found is None:
        raise ProgramMissing(f"{name} is not installed", hint="the package that has it is called iptables")
    statement = " ".join([name, *arguments])
    # The rules of one machine are to read the same in every language.
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [found, *arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=environment,
            timeout=patience + _LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KernelError(statement=statement, said=f"no end after {patience + _LONGEST} s") from None
    except OSError as error:
        raise ProgramMissing(f"{found} can't be started: {error.strerror}") from None
    said = done.stderr.strip()
    if done.returncode == _RESOURCE_PROBLEM and "xtables lock" in said:
        raise LockHeld(
            statement=statement,
            said=f"another program has held the xtables lock for {patience} s{_holder()}",
            hint="nothing was changed; try again, or wait longer",
        )
    if done.returncode:
        line = re.search(r"line (\d+)", said)
        culprit = stdin.splitlines()[int(line[1]) - 1] if line and 0 < int(line[1]) <= stdin.count("\n") else ""
        raise KernelError(statement=statement + (f" <<< {culprit!r}" if culprit else ""), said=said or "failed")
    if _INCOMPATIBLE.search(done.stdout + done.stderr):
        raise KernelError(
            statement=statement,
            said="a table of iptables' name holds what iptables doesn't write",
            hint="`nft list ruleset` shows it",
        )
    return done.stdout


def _find(flavour: Flavour, family: Family, program: str) -> str | None:
    """Return the path of a program of this flavour: by its own name, or by the plain one where that is its flavour."""
    path = os.environ.get("PATH", "") + ":" + _PATH
    named = shutil.which(f"{PROGRAMS[family]}-{flavour}-{program}", path=path)
    if named is not None:
        return named
    plain = shutil.which(f"{PROGRAMS[family]}-{program}", path=path)
    if plain is None:
        return None
    # What a plain name leads to is told by the multi-call program behind it; before 1.8 there was only one flavour.
    behind = os.path.basename(os.path.realpath(plain))
    return plain if ("nft" in behind) == (flavour is Flavour.NFT) else None


def _holder() -> str:
    """Return the process that holds the lock, as the kernel knows it (proc(5), /proc/locks); empty when it doesn't."""
    try:
        inode = os.stat(os.environ.get("XTABLES_LOCKFILE", _LOCK_FILE)).st_ino
        locks = Path("/proc/locks").read_text()
    except OSError:
        return ""
    held = re.search(rf"FLOCK +ADVISORY +WRITE +(\d+) +\S+:{inode} ", locks)
    return f": process {held[1]} has it" if held else ""
