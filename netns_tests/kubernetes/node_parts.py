"""What nodes are made of, outside of the tree: Debian's containerd and runc, unpacked, and two images."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from netns_tests.images import debian, oci
from netns_tests.kubernetes.node_files import PAUSE

__all__ = ["BUSYBOX", "PROXY", "busybox", "folder", "pause", "proxy", "unpacked"]

BUSYBOX, PROXY = "localhost/busybox:1", "localhost/mesh-proxy:1"
_PACKAGES = ("busybox-static", "containerd", "containernetworking-plugins", "runc")
_ROOT = Path(__file__).parents[2]


def folder() -> Path:
    """Return the folder that all of it is kept in."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return base / "weir/nodes-1"


def unpacked() -> Path:
    """Return the folder that Debian's packages are unpacked in, fetched the first time."""
    root = folder() / "root"
    with _Locked():
        if not (folder() / "unpacked").exists():
            for each in debian.fetched(_PACKAGES, folder() / "packages"):
                subprocess.run(["dpkg", "-x", each, root], check=True)
            (folder() / "unpacked").touch()
    return root


def pause() -> Path:
    """Return the archive of the image that holds a pod's namespaces."""
    return _image("pause", PAUSE, ("/bin/sleep", "2147483647"))


def busybox() -> Path:
    """Return the archive of a shell and all that it has: httpd, wget, nc."""
    return _image("busybox", BUSYBOX, ())


def proxy() -> Path:
    """Return the archive of the tests' proxy with its Python, made anew each time: its sources are the tree's."""
    with _Locked():
        root, archive = folder() / "proxy", folder() / "proxy.tar"
        shutil.rmtree(root, ignore_errors=True)
        debian.root_file_system(root, ("python3", "busybox-static"), folder() / "packages")
        for name in ("agent", "netns_tests", "rulesets"):
            ignored = shutil.ignore_patterns("__pycache__", "*.go")
            shutil.copytree(_ROOT / name, root / "opt/weir" / name, ignore=ignored)
        draft = archive.with_suffix(".half")
        oci.write(draft, PROXY, root)
        draft.rename(archive)
        shutil.rmtree(root)
    return archive


def _image(name: str, reference: str, entrypoint: tuple[str, ...]) -> Path:
    program = unpacked() / "bin/busybox"
    with _Locked():
        archive, root = folder() / f"{name}.tar", folder() / f"{name}-root"
        if not archive.exists():
            shutil.rmtree(root, ignore_errors=True)
            for each in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "var"):
                (root / each).mkdir(parents=True)
            shutil.copy2(program, root / "bin")
            said = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout
            for each in set(said.split()) - {"busybox"}:
                (root / "bin" / each).symlink_to("busybox")
            (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
            draft = archive.with_suffix(".half")
            oci.write(draft, reference, root, entrypoint=entrypoint)
            draft.rename(archive)
            shutil.rmtree(root)
    return archive


class _Locked:
    """One at a time. The lock goes with its process."""

    def __enter__(self) -> None:
        folder().mkdir(parents=True, exist_ok=True)
        self._file = (folder() / "lock").open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        self._file.close()
