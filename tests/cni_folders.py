"""A node's folders for CNI, as the installer's tests look at them."""

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from agent.cni.conflist import PLUGIN
from agent.cni.entry import Entry
from agent.cni.installation import Installation
from agent.cni.installer import Installer

CALICO = """{
  "name": "k8s-pod-network", "cniVersion": "0.3.1",
  "plugins": [
    {"type": "calico", "ipam": {"type": "calico-ipam"}, "of/others": [1.50]},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"""
FLANNEL = '{"name": "cbr0", "cniVersion": "1.0.0", "plugins": [{"type": "flannel"}]}'
BRIDGE = '{\n "cniVersion": "0.3.1", "type": "bridge",\n "ipam": {"type": "host-local"}\n}\n'
LOOPBACK = '{"cniVersion": "0.3.1", "type": "loopback"}'
ISTIO = '{"name": "n", "cniVersion": "0.3.1", "plugins": [{"type": "calico"}, {"type": "istio-cni"}]}'
SECONDS = 30.0

ENTRY = Entry(agent_socket="/run/weir/cni.sock", kubeconfig="/run/weir/cni-kubeconfig", selectors=())
DOCUMENT = json.loads(json.dumps(ENTRY.document()))


class Folders:
    """/etc/cni/net.d and /opt/cni/bin of a node, and the image that has the plugin's program."""

    def __init__(self, folder: Path) -> None:
        """Make them, with another plugin's program."""
        self.conf, self.bin, self.program = folder / "net.d", folder / "bin", folder / PLUGIN
        for each in (self.conf, self.bin):
            each.mkdir()
        self.program.write_bytes(b"\x7fELF the plugin" * 1000)
        self.write(self.bin / "bridge", "another plugin", 0o755)

    def installer(self, **settings: Any) -> Installer:
        """Return an installer for them."""
        return Installer(
            Installation(
                program=self.program, entry=ENTRY, bin_directory=self.bin, conf_directory=self.conf, **settings
            )
        )

    def write(self, path: Path | str, text: str, mode: int = 0o644) -> Path:
        """Write a file as its owner does, in place; return its path."""
        path = self.conf / path
        path.touch()
        path.chmod(mode)  # before the text: a mode that comes later may be met by an installer at work
        path.write_text(text)
        return path

    def seen(self) -> dict[str, tuple[int, bytes]]:
        """Everything that is in the two folders: modes and contents by path."""
        paths = [path for folder in (self.conf, self.bin) for path in folder.iterdir()]
        return {str(path): (stat.S_IMODE(path.lstat().st_mode), path.read_bytes()) for path in paths if path.is_file()}

    def first(self) -> dict[str, Any]:
        """The configuration that a container runtime would use."""
        names = sorted(each for each in os.listdir(self.conf) if each.endswith((".conf", ".conflist")))
        names = [each for each in names if json.loads((self.conf / each).read_text()).get("type") != "loopback"]
        document = json.loads((self.conf / names[0]).read_text())
        assert isinstance(document, dict)
        return document

    def is_chained(self, *behind: str) -> bool:
        """Whether pods would go through these plugins and then Weir's; not while a file is broken."""
        try:
            plugins = self.first()["plugins"]
        except (OSError, ValueError, LookupError):
            return False
        whole = (self.bin / PLUGIN).is_file() and (self.bin / PLUGIN).read_bytes() == self.program.read_bytes()
        return whole and [each["type"] for each in plugins] == [*behind, PLUGIN] and plugins[-1] == DOCUMENT


def eventually(holds: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


class Reader:
    """Reads what a container runtime reads, without rest, and remembers whatever was no JSON."""

    def __init__(self, folder: Path) -> None:
        """Read every configuration of a folder."""
        self.folder = folder
        self.broken: list[tuple[str, str]] = []
        self.readings = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        while not self._ended.is_set():
            for name in os.listdir(self.folder):
                if not name.endswith((".conf", ".conflist")):
                    continue
                try:
                    text = (self.folder / name).read_text()
                except FileNotFoundError:
                    continue
                self.readings += 1
                try:
                    json.loads(text)
                except ValueError:
                    self.broken.append((name, text))
            time.sleep(0.0005)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
