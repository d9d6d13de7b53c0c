"""What the kernel lacks: by use, with the build option and the module that would bring it."""

import gzip
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.findings import Finding, Level
from agent.kernel import features
from agent.kernel.features import OWNED_TABLES, PERSISTENT_TABLES

# By option (Linux, Makefiles below net/). What isn't here is part of another module, or can't be one.
MODULES = {
    "CONFIG_NF_TABLES": "nf_tables",
    "CONFIG_NF_TABLES_INET": "nf_tables",
    "CONFIG_NFT_NAT": "nft_chain_nat",
    "CONFIG_NFT_REDIR": "nft_redir",
    "CONFIG_NFT_FIB_INET": "nft_fib_inet",
    "CONFIG_NFT_CT": "nft_ct",
    "CONFIG_NFT_SOCKET": "nft_socket",
    "CONFIG_NFT_REJECT_INET": "nft_reject_inet",
    "CONFIG_NF_CT_NETLINK": "nf_conntrack_netlink",
    "CONFIG_INET_TCP_DIAG": "tcp_diag",
    "CONFIG_INET_UDP_DIAG": "udp_diag",
    "CONFIG_IPV6": "ipv6",
}
# Without these Weir does what it is to do, with less protection.
_COMFORT = frozenset({OWNED_TABLES, PERSISTENT_TABLES, "cookies of namespaces"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How the running kernel was built, as far as it says so: options with their values, modules that are installed.

    None stands for what nobody says.
    """

    release: str
    options: dict[str, str] | None = None
    modules: frozenset[str] | None = None


def read_build(root: Path = Path("/")) -> Build:
    """Return how the running kernel was built; files below `root`. Raises nothing."""
    release = os.uname().release
    return Build(release=release, options=_options(root, release), modules=_modules(root, release))


def judge(found: Iterable[features.Finding], build: Build) -> Iterator[Finding]:
    """Yield a finding for each feature that is missing."""
    for each in features.missing(tuple(found)):
        feature = each.feature
        level = Level.WARNING
        if feature.needed:
            level = Level.ERROR
        elif feature.name in _COMFORT:
            level = Level.NOTE
        do, command = _advice(feature.option, feature.since, build)
        yield Finding(
            check="kernel",
            level=level,
            what=f"{feature.name} is missing ({feature.option}): {each.said}",
            why=feature.instead,
            do=do,
            command=command,
        )


def _advice(option: str, since: str, build: Build) -> tuple[str, str]:
    for name in re.findall(r"CONFIG_\w+", option.partition("(")[0]):
        module = MODULES.get(name)
        value = None if build.options is None else build.options.get(name, "n")
        if value == "n":
            return f"the kernel {build.release} was built without {name}: take one that has it", ""
        if module and value in ("m", None) and build.modules is not None:
            if module in build.modules:
                return (
                    f"load the module {module}, and have it loaded at boot (/etc/modules-load.d)",
                    f"modprobe {module}",
                )
            if value == "m":
                return f"the module {module} is not installed: add the package of extra modules for {build.release}", ""
    return f"take a kernel with {option}, of Linux {since} or later (this is {build.release})", ""


def _options(root: Path, release: str) -> dict[str, str] | None:
    for path in (root / "proc/config.gz", root / f"boot/config-{release}", root / f"lib/modules/{release}/config"):
        try:
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError):
            continue
        return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", content.decode(errors="replace"), re.MULTILINE))
    return None


def _modules(root: Path, release: str) -> frozenset[str] | None:
    try:
        listed = (root / f"lib/modules/{release}/modules.dep").read_text(errors="replace")
    except OSError:
        return None
    names = re.findall(r"^[^:\n]*?([^/:\n]+)\.ko[^:\n]*:", listed, re.MULTILINE)
    return frozenset(each.replace("-", "_") for each in names)
