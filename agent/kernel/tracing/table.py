"""The table that has packets traced: it goes with the socket that wrote it, also where its process is killed."""

from collections.abc import Callable

from agent.errors import FeatureMissing, KernelError
from agent.kernel import batches
from agent.kernel.closing import Closing
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from agent.kernel.tablequery import table_state
from rulesets.diff import Plan
from rulesets.model import Ruleset
from rulesets.netlink import encode

_FEATURE = {"feature": "a table that goes with its socket", "option": "Linux 5.12, NFT_TABLE_F_OWNER"}
_HINT = "`weir explain TARGET --packet` walks the rules without a traced packet"


class TracingTable(Closing):
    """A table in the namespace of the thread that makes it, until `close`, or until this process ends in any way."""

    def __init__(self, named: Callable[[int], Ruleset]) -> None:
        """Write the ruleset that `named` returns for a number that nobody else in the namespace has at the time.

        Raises `FeatureMissing` where the kernel knows no ownership: nothing is written then.
        """
        self._netlink = RawNetlink(NETLINK_NETFILTER, feature="nf_tables over netlink", option="CONFIG_NF_TABLES")
        try:
            ends = batches.acknowledges_end(self._netlink)
            ruleset = named(self._netlink.port)
            self.name = ruleset.table
            empty = Ruleset(table=ruleset.table)
            self._write(Plan(actual=None, desired=empty), ends)
            state = table_state(self._netlink, self.name)
            if state is None or state.owner != self._netlink.port:
                self._write(Plan(actual=empty, desired=None), ends, owned=False)
                said = "the kernel took the table without its owner"
                raise FeatureMissing(**_FEATURE, statement=self._statement, said=said, hint=_HINT)
            self._write(Plan(actual=empty, desired=ruleset), ends)
        except BaseException:
            self.close()
            raise

    @property
    def _statement(self) -> str:
        return f"nft add table inet {self.name} {{ flags owner; }}"

    def _write(self, plan: Plan, ends: bool, *, owned: bool = True) -> None:
        flags = ("owner",) if owned else ()
        try:
            batches.send(self._netlink, encode(plan, flags=flags, found=flags, end_acknowledged=ends))
        except KernelError as error:
            if plan.actual is None and ("EOPNOTSUPP" in error.said or "EINVAL" in error.said):
                raise FeatureMissing(**_FEATURE, statement=self._statement, said=error.said, hint=_HINT) from None
            raise

    def close(self) -> None:
        """Take the table away: the kernel does, when its owner's socket is closed. Twice is once."""
        self._netlink.close()
