"""nftables through libnftables, in the process: listings as nft sees them, and rules as text.

One `Tables` for each namespace, made inside it: a context writes into the namespace in which it was made, whoever uses
it. libnftables ends the process when a context is used by two threads at once, so each has a lock. Different contexts
aren't safe together either: it splits the types of sets with strtok(3), whose place in the text is the process's, so
that one listing gets words of another, or an assertion ends the process. One call at a time for all of them, then.
"""

import ctypes
import dataclasses
import json
import os
import re
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from agent.errors import KernelError, LibraryMissing, PermissionMissing, TableHeld
from agent.kernel.contents import contents
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from agent.kernel.tablequery import TableName, socket_cgroups, table_state
from agent.kernel.unprintable import unprintable
from rulesets import nft
from rulesets.host import NAT_POST
from rulesets.model import Ruleset
from rulesets.pod import REASONS
from rulesets.vocabulary import Foreign

_LIBRARY = "libnftables.so.1"
_CAP_NET_ADMIN = 1 << 12  # include/uapi/linux/capability.h
_ATTEMPTS = 5  # to list the parts of a table that somebody else changes meanwhile
_library_in_use = threading.Lock()
# A chain's name is part of the command that lists it, and could be a word of nft's: only names of ours are asked for.
_OUR_CHAINS = frozenset(chain.name for chain in (*REASONS, NAT_POST))
_DENIED = "Operation not permitted"
_CGROUP_KEY = '"cgroupv2"'
_ABSENT = "No such file or directory"
# libnftables: "FILE:LINE:COL-COL: Error: TEXT", then the line, then a line of ^ under what it means.
_ERROR = re.compile(r"^[^:\n]*:\d+:\d+-\d+: Error: (?P<said>[^\n]*)\n(?P<statement>[^\n]*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """A table that is there: which chains are to be listed, what no listing in parts shows, and what none may."""

    family: str
    table: str
    flags: tuple[str, ...]
    chains: tuple[str, ...]
    left_out: tuple[Foreign, ...]
    odd: tuple[Foreign, ...]


class Tables:
    """The nftables of one namespace. To be made inside it (`OpenNetns.entered`)."""

    def __init__(self) -> None:
        """Make a libnftables context for the calling thread's namespace. Raises `LibraryMissing`."""
        self._context = binding().Nftables(_LIBRARY)
        self._context.set_json_output(True)
        self._lock = threading.Lock()
        self._netlink = RawNetlink(NETLINK_NETFILTER, feature="nf_tables over netlink", option="CONFIG_NF_TABLES")

    def read(self, table: str) -> Ruleset | None:
        """Return our table as it is, or None when it isn't there. Foreign tables are not read.

        Raises `KernelError` also where what libnftables printed can't be understood.
        """
        for left in reversed(range(_ATTEMPTS)):
            listed = self._listed(table, "inet", _OUR_CHAINS)
            if listed is None or listed.odd:
                return Ruleset(table=table, foreign=listed.odd) if listed else None
            try:
                read = nft.parse(self._listing(listed), table)
                foreign = listed.left_out
                return dataclasses.replace(read, foreign=(*read.foreign, *foreign)) if read and foreign else read
            except nft.ListingError as error:
                raise KernelError(statement=f"nft -j list table inet {table}", said=str(error)) from None
            except KernelError as error:
                if _ABSENT not in error.said or not left:
                    raise
        return None

    def read_anybodys(self, table: TableName) -> nft.Tables:
        """Return a table of the family inet, ip or ip6 as anybody may have written it; nothing when it isn't there.

        Raises `KernelError` also where rules lead to chains that aren't listed: somebody changes them meanwhile.
        """
        listed = self._listed(table.name, table.family, None)
        if listed is None:
            return nft.Tables()
        if listed.odd:
            why = f"table {table} holds what nft itself could not read: {listed.odd[0].verbatim}"
            return nft.Tables(unread=(why,))
        try:
            read = nft.parse_tables(self._listing(listed))
        except nft.ListingError as error:
            raise KernelError(statement=f"nft -j list table {table}", said=str(error)) from None
        if not (listed.flags or listed.left_out):
            return read
        told = (
            dataclasses.replace(each, flags=listed.flags, objects=(*each.objects, *listed.left_out))
            for each in read.rulesets
        )
        return dataclasses.replace(read, rulesets=tuple(told))

    def _listed(self, table: str, family: str, chains: frozenset[str] | None) -> "_Listed | None":
        """Return what is to be listed of a table: with one flag only these chains. None when it isn't there."""
        with self._lock:
            state = table_state(self._netlink, table, family)
            held = contents(self._netlink, table, family) if state else None
            name = unprintable(self._netlink, table, family) if held and not held.odd else None
        if state is None or held is None:
            return None
        shown = tuple(each for each in held.chains if chains is None or each in chains)
        hidden = tuple(Foreign(verbatim=f"chain {each!r}") for each in held.chains if each not in shown)
        in_parts = len(state.flags) == 1
        left_out = (*hidden, *held.others) if in_parts else ()
        odd = held.odd if name is None else (Foreign(verbatim=f"rule with the name {name!r}"),)
        return _Listed(family=family, table=table, flags=state.flags, chains=shown, left_out=left_out, odd=odd)

    def _listing(self, listed: "_Listed") -> str:
        """Return the listing of a table in JSON, with what libnftables doesn't tell."""
        family, table = listed.family, listed.table
        if len(listed.flags) != 1:
            listing = self._list(f"list table {family} {table}")
        else:
            listing = _whole(listed, [self._list(command) for command in _in_parts(listed)])
        if _CGROUP_KEY in listing:
            with self._lock:
                listing = _with_cgroups(listing, socket_cgroups(self._netlink, table, family))
        return listing

    def text(self, table: str) -> str:
        """Return the text that makes a table again, counters included; whoever wrote it. Raises `KernelError`."""
        with self._lock:
            self._context.set_json_output(False)
            numeric = self._context.set_numeric_prio_output(True)
        try:
            # Priorities by name are not taken at every hook by which they are listed.
            return self._list(f"list table inet {table}")
        finally:
            with self._lock:
                self._context.set_numeric_prio_output(numeric)
                self._context.set_json_output(True)

    def numbered(self, table: TableName) -> str:
        """Return a table as nft's text, each rule with its handle, without counts. Raises `KernelError`."""
        with self._lock:
            self._context.set_json_output(False)
            self._context.set_handle_output(True)
            self._context.set_stateless_output(True)
        try:
            return self._list(f"list table {table}")
        finally:
            with self._lock:
                self._context.set_handle_output(False)
                self._context.set_stateless_output(False)
                self._context.set_json_output(True)

    def _list(self, command: str) -> str:
        with self._lock, _library_in_use:
            code, output, said = self._context.cmd(command)
            self._forget()
        if code:
            raise _error(command, said or "")
        return output or ""

    def load(self, text: str) -> None:
        """Carry out nft text in one transaction.

        Raises `TableHeld` when another process owns a table in it, `KernelError` naming the statement otherwise; either
        way nothing has changed.
        """
        # With an error in a buffer libnftables 1.0.6 shows its first line, with one in a file the line that is meant.
        file = os.memfd_create("weir.nft", os.MFD_CLOEXEC)
        try:
            with open(file, "w", encoding="utf-8", closefd=False) as writer:
                writer.write(text)
            with self._lock, _library_in_use:
                code, _, said = self._context.cmd_from_file(f"/proc/self/fd/{file}")
                self._forget()
        finally:
            os.close(file)
        if code:
            raise _error(text, said or "")

    def _forget(self) -> None:
        """Have libnftables free its copy of the ruleset: 0.6 MB for each context otherwise, and it is read anew anyway.

        There is no call for that, but a command that is none frees it (nft_run_cmd_from_buffer) and costs 0.02 ms.
        """
        self._context.cmd("-")

    def close(self) -> None:
        """Let go of the namespace. Twice is once; afterwards nothing else may be called."""
        with self._lock:
            self._netlink.close()
            self._context = None  # libnftables closes its socket when its context is freed


@cache
def binding() -> Any:
    """Return libnftables' Python binding, with the library loaded; once. Raises `LibraryMissing`."""
    try:
        import nftables

        # Loaded here first: where that fails, the binding's own object would complain once more when it is freed.
        ctypes.CDLL(_LIBRARY)
    except (ImportError, OSError) as error:
        raise LibraryMissing(
            f"libnftables can't be loaded: {error}",
            hint="install the distribution's python3-nftables (and run ./dev setup in a checkout)",
        ) from None
    return nftables


def _in_parts(listed: _Listed) -> tuple[str, ...]:
    """Return the commands that list counters, sets and chains of a table, in the order of a whole listing.

    Up to 1.0.8 libnftables reads memory that it has freed when it prints, as JSON, a table with just one flag
    ("json: fix use after free in table_flags_json()"): nonsense at best, and a dormant table looks like any other.
    They go one by one: of several chains asked for at once, 1.0.6 finds only the last.
    """
    place = f"{listed.family} {listed.table}"
    every = [f"list {kind} table {place}" for kind in ("counters", "sets")]
    return (*every, *(f"list chain {place} {chain}" for chain in listed.chains))


def _whole(listed: _Listed, parts: list[str]) -> str:
    """Put the listings of a table's parts together, with what the kernel said of the table itself."""
    objects: list[object] = [{"table": {"family": listed.family, "name": listed.table, "flags": list(listed.flags)}}]
    for part in parts:
        objects += [each for each in json.loads(part)["nftables"] if "metainfo" not in each]
    return json.dumps({"nftables": objects})


def _with_cgroups(listing: str, asked: Mapping[int, tuple[tuple[int, int] | None, ...]]) -> str:
    """Put level and number of cgroups into a listing, which it doesn't tell (`asked`: of each rule, by its handle).

    nft leaves the level out, and shows the number as the path of any file under /sys/fs/cgroup that has it, be it of
    another hierarchy. Rules never change and no handle comes twice, so both are of the same rule. What is left as it
    was is foreign.
    """
    document = json.loads(listing)
    for each in document["nftables"]:
        rule = each.get("rule", {})
        matches = [part["match"] for part in rule.get("expr", ()) if _asks_for_cgroup(part)]
        told = asked.get(rule.get("handle"), ())
        for match, pair in zip(matches, told, strict=False):
            if len(matches) == len(told) and pair is not None and match["op"] == "==":
                match["left"]["socket"]["level"], match["right"] = pair
    return json.dumps(document)


def _asks_for_cgroup(part: Mapping[str, Any]) -> bool:
    match part:
        case {"match": {"left": {"socket": {"key": "cgroupv2"}}}}:
            return True
        case _:
            return False


def _error(text: str, said: str) -> KernelError:
    found = _ERROR.search(said)
    statement = found["statement"].strip() if found else text.strip().partition("\n")[0]
    words = found["said"].removeprefix("Could not process rule: ") if found else said.strip() or "no reason given"
    if _DENIED in words:
        if not _may_change():
            return PermissionMissing(
                statement=statement, said=words, hint="changing nftables needs CAP_NET_ADMIN: run as root"
            )
        return TableHeld(statement=statement, said=f"{words}: another process owns the table")
    return KernelError(statement=statement, said=words)


def _may_change() -> bool:
    """Tell whether the calling thread has CAP_NET_ADMIN: root without it, as in a container, is refused as well."""
    try:
        status = Path("/proc/thread-self/status").read_text(encoding="utf-8")
        return bool(int(status.partition("CapEff:")[2].split()[0], 16) & _CAP_NET_ADMIN)
    except (OSError, IndexError, ValueError):
        return os.geteuid() == 0
