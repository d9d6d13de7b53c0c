"""What is to be on the node, and how that stands."""

import os
from dataclasses import dataclass
from pathlib import Path

from agent.cni.conflist import SUFFIXES
from agent.cni.entry import Entry
from agent.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What is to be where. `program` is the plugin as the image has it.

    `conf_name` names the file to chain into, instead of the first good one of the folder. With `own_name`, no file of
    another is touched: that one holds a copy of the primary's plugins and the entry, and has to come first in order.
    `own_mode` is for it, and for the list that stands in for a single plugin's file.
    """

    program: Path
    entry: Entry
    bin_directory: Path = Path("/opt/cni/bin")
    conf_directory: Path = Path("/etc/cni/net.d")
    conf_name: str = ""
    own_name: str = ""
    own_mode: int = 0o600

    def __post_init__(self) -> None:
        for setting, name in (("cniConfFileName", self.conf_name), ("own conflist", self.own_name)):
            if name and (name != os.path.basename(name) or not name.endswith(SUFFIXES)):
                raise ConfigError(
                    f"{setting} = {name!r}: wants the name of a file in cniConfDir, such as 02-weir.conflist"
                )
        if self.own_name and not self.own_name.endswith(".conflist"):
            raise ConfigError(f"own conflist = {self.own_name!r}: wants a name that ends in .conflist")


PROGRAM_FAILURE, CONFIGURATION_FAILURE = "COPY_BINARIES_FAILURE", "CREATE_CNI_CONFIG_FAILURE"
"""Istio's words for what fails."""


class ProgramError(ConfigError):
    """The plugin's program can't be read, or not be put on the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the installation stands after a pass: `ready`, or why not; and what the pass has written or deleted.

    `failure` is Istio's word for what fails, where it isn't `ready` (istio_cni_installs_total).
    `again` is in how many seconds to look again where no change of a file would tell; None is not needed.
    """

    ready: bool
    reason: str
    hint: str = ""
    failure: str = CONFIGURATION_FAILURE
    changed: tuple[Path, ...] = ()
    again: float | None = None

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {"ready": self.ready, "reason": self.reason, "hint": self.hint}
