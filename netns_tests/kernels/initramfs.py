"""What a kernel starts from: a shell, the modules for the root, and the job; the root itself is this machine's.

The archive is made anew for each boot, in memory: it takes milliseconds, and nothing can be out of date.
"""

import lzma
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from netns_tests.kernels.debian import Unpacked

__all__ = ["archive", "built_in", "initramfs", "load_order"]

MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
TAG = "machine"  # the name of the root that qemu offers

# The overlay takes what is written, so the machine's own files stay. /run is fresh: no namespace and no lock of the
# machine is seen. Process 1 shares its root with the kernel's own threads: these find modprobe after switch_root.
INIT = """#!/bin/busybox sh
busybox() { /bin/busybox "$@" || { echo "init: $*: failed"; exec /bin/busybox poweroff -f; }; }
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
while read -r module; do busybox insmod "/modules/$module"; done </order
busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose %(tag)s /machine
busybox mount -t tmpfs tmpfs /written
busybox mkdir /written/upper /written/work
busybox mount -t overlay -o lowerdir=/machine,upperdir=/written/upper,workdir=/written/work overlay /root
busybox mount -t proc proc /root/proc
busybox mount -t sysfs sysfs /root/sys
busybox mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
busybox mount -t devtmpfs dev /root/dev
busybox mkdir -p /root/dev/pts /root/dev/shm
busybox mount -t devpts devpts /root/dev/pts
busybox mount -t tmpfs tmpfs /root/dev/shm
busybox mount -t tmpfs tmpfs /root/run
modules=/root/usr/lib/modules/$(/bin/busybox uname -r)
busybox mkdir -p "$modules"
busybox mount -o bind "/machine%(modules)s" "$modules"
busybox cp /job /root/run/job
busybox umount /dev
busybox umount /proc
exec /bin/busybox switch_root /root /bin/sh -c 'sh /run/job; echo o >/proc/sysrq-trigger; sleep 60'
"""


def initramfs(kernel: Unpacked, job: str) -> bytes:
    """Return the archive that boots a kernel into this machine's root and runs a shell script there as process 1's."""
    index = (kernel.modules / "modules.dep").read_text()
    builtin = (kernel.modules / "modules.builtin").read_text()
    order = load_order(index, built_in(builtin), MODULES)
    contents = {f"modules/{Path(path).name}": _module(kernel.modules / path) for path in order}
    files = {
        "bin/busybox": kernel.busybox.read_bytes(),
        "init": (INIT % {"tag": TAG, "modules": kernel.modules.resolve()}).encode(),
        "job": job.encode(),
        "order": "".join(f"{Path(path).name}\n" for path in order).encode(),
    }
    return archive(("bin", "dev", "machine", "modules", "proc", "root", "written"), files | contents)


def _module(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def built_in(text: str) -> frozenset[str]:
    """Return the names of modules that are part of the kernel, of what `modules.builtin` says."""
    return frozenset(map(_name, text.split()))


def load_order(index: str, builtin: frozenset[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the paths of modules with what they need before them, of what `modules.dep` says.

    Raises `LookupError` for a module that is neither there nor built in.
    """
    needs = {}
    for line in index.splitlines():
        path, _, needed = line.partition(":")
        needs[_name(path)] = (path, needed.split())
    order: dict[str, None] = {}
    for name in wanted:
        if name in builtin:
            continue
        if name not in needs:
            raise LookupError(f"this kernel has no module {name}")
        path, before = needs[name]
        order |= dict.fromkeys([*reversed(before), path])  # the nearest comes first in the index
    return tuple(order)


def _name(path: str) -> str:
    return Path(path).name.partition(".")[0].replace("-", "_")


def archive(folders: Iterable[str], files: Mapping[str, bytes]) -> bytes:
    """Return a cpio archive as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    entries = [_entry(folder, stat.S_IFDIR | 0o755, b"") for folder in folders]
    entries += [_entry(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    return b"".join([*entries, _entry("TRAILER!!!", 0, b"")])


def _entry(name: str, mode: int, content: bytes) -> bytes:
    """Return header, name and content, each padded to four bytes. Numbers are eight hexadecimal digits."""
    links, size, length = 1, len(content), len(name) + 1
    numbers = (0, mode, 0, 0, links, 0, size, 0, 0, 0, 0, length, 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-size % 4)
