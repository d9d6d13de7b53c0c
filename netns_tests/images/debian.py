"""A root file system from Debian's packages, unpacked only: no script of theirs runs, the machine stays as it is."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["fetched", "root_file_system"]

# What a container has no use for, though packages that it needs depend on it.
_WITHOUT = frozenset(
    "adduser debconf dpkg gcc-12-base libpam-modules libpam-runtime libtirpc-common login media-types passwd perl-base"
    " readline-common sysvinit-utils tar".split()
)
_MERGED = ("bin", "lib", "lib64", "sbin")  # links into /usr, as in every Debian since 12
_REMOVED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bash-completion")


def fetched(packages: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """Return the packages' files, fetched into a folder where they aren't there."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [each for each in packages if not list(folder.glob(f"{each}_*.deb"))]
    if missing:
        _said("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *missing, cwd=folder)
    return tuple(max(folder.glob(f"{each}_*.deb")) for each in packages)


def root_file_system(root: Path, packages: Sequence[str], folder: Path) -> None:
    """Unpack packages and all that they depend on into `root`; the files that are fetched for it stay in `folder`."""
    for each in _MERGED:
        (root / "usr" / each).mkdir(parents=True)
        (root / each).symlink_to(f"usr/{each}")
    for file in fetched(_closure(packages, folder), folder):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", file], stdout=subprocess.PIPE) as archive:
            subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", root], stdin=archive.stdout, check=True)
        assert archive.returncode == 0, file
    for name in _REMOVED:
        shutil.rmtree(root / name, ignore_errors=True)
    _alternatives(root)
    for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "var/run", ignore_errors=True)
    (root / "var/run").symlink_to("/run")
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")


def _alternatives(root: Path) -> None:
    """Do what maintainer scripts do: one of several programs gets the common name."""
    for name in ("iptables", "ip6tables"):
        for each in (name, f"{name}-save", f"{name}-restore"):
            if (root / "usr/sbin/xtables-nft-multi").exists():
                (root / "usr/sbin" / each).unlink(missing_ok=True)
                (root / "usr/sbin" / each).symlink_to("xtables-nft-multi")


def _closure(packages: Sequence[str], folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    nothing = folder / "nothing-installed"
    nothing.touch()
    options = ("-o", f"Dir::State::status={nothing}", "-o", "APT::Install-Recommends=false")
    said = _said("apt-get", "--simulate", *options, "install", *packages)
    names = [line.split()[1] for line in said.splitlines() if line.startswith("Inst ")]
    return [each for each in names if each not in _WITHOUT]


def _said(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stderr}"
    return done.stdout
