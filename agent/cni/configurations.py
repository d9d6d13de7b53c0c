"""A folder of network configurations as a container runtime reads it: in order of names, the first good one counts."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.cni import files
from agent.cni.conflist import ISTIO_PLUGIN, PLUGIN, SUFFIXES, of_text, types
from agent.errors import ConfigError

WRAPPED_SUFFIX = f"-{PLUGIN}.conflist"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One file: its text, mode and the types of its plugins; or, where a runtime can't use it, why."""

    path: Path
    text: str = ""
    mode: int = 0o600
    types: tuple[str, ...] = ()
    fault: str = ""

    @property
    def single(self) -> bool:
        """Whether the file holds one plugin rather than a list: .conf and .json do."""
        return self.path.suffix != ".conflist"

    @property
    def primary(self) -> bool:
        """Whether it makes a pod's network. A loopback alone, as containerd's packages ship one, doesn't."""
        return not self.fault and self.types != ("loopback",)


def wrapped_name(path: Path) -> str:
    """Return the name of the conflist that stands in for a single plugin's file: the one right before it in order."""
    return f"{path.stem}{WRAPPED_SUFFIX}"  # - comes before .


def is_own(path: Path, own_name: str) -> bool:
    """Tell whether a file is one that Weir makes, rather than one that it puts its entry into."""
    return path.name.endswith(WRAPPED_SUFFIX) or (own_name != "" and path.name == own_name)


def configurations(folder: Path) -> tuple[Configuration, ...]:
    """Return the configurations of a folder, in order. Raises `ConfigError` where there is no such folder."""
    try:
        names = sorted((each for each in os.listdir(folder) if each.endswith(SUFFIXES)), key=os.fsencode)
    except OSError as error:
        raise ConfigError(
            f"{folder}: the network configurations can't be read: {error.strerror}",
            hint="set cniConfDir to the folder that the container runtime reads, and mount it",
        ) from None
    return tuple(_each(folder, names))


def refuse_istio(found: tuple[Configuration, ...]) -> None:
    """Raise `ConfigError` where Istio's plugin stands in a configuration: two agents would capture the same pods."""
    for each in found:
        if ISTIO_PLUGIN in each.types:
            raise ConfigError(
                f"{each.path}: has an entry of {ISTIO_PLUGIN}, so Istio's CNI agent is on this node",
                hint="take it off this node first, which ends its entry; where it no longer runs, edit the file",
            )


def _each(folder: Path, names: list[str]) -> Iterator[Configuration]:
    for name in names:
        path = folder / name
        try:
            text, mode = files.read(path), stat.S_IMODE(path.stat().st_mode)
            document = of_text(text, single=path.suffix != ".conflist")
        except FileNotFoundError:
            continue  # gone since, or a link that leads nowhere
        except (OSError, ConfigError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            yield Configuration(path=path, fault=f"{path}: {said}")
        else:
            yield Configuration(path=path, text=text, mode=mode, types=types(document))
