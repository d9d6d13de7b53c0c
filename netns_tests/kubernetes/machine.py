"""One node of a cluster as the first process of namespaces of its own: containerd, kubelet and kube-proxy.

`python -m netns_tests.kubernetes.machine SETTINGS.json` makes the namespaces and ends with whoever started it. What the
node sees is this machine's root below a file system in memory, so /etc/cni, /opt/cni, /run and /var/lib/kubelet are at
their places and nothing is written here. Its network is brought to it from outside.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from netns_tests.kubernetes import node_files

__all__: list[str] = []

CGROUPS = Path("/sys/fs/cgroup")
_NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc", "--cgroup")
# The kubelet would set these for the whole machine; it is shown that they are set.
_SYSCTLS = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}


def main(settings: Path, *, inside: bool) -> None:
    """Make the namespaces, or be the first process in them."""
    told = json.loads(settings.read_text())
    if not inside:
        _join_cgroups(told["cgroup"])
        again = (sys.executable, "-m", "netns_tests.kubernetes.machine", "--inside", str(settings))
        os.execvp(  # noqa: S606
            "unshare",
            ["unshare", *_NAMESPACES, "--fork", "--kill-child=KILL", "--propagation", "private", *again],
        )
    socket.sethostname(told["name"])
    _root(Path(told["state"]), tuple(map(Path, told["shown"])))
    _settings_of_the_kernel()
    _daemons(told)
    while True:  # whatever loses its parent on this node is ours
        with contextlib.suppress(ChildProcessError):
            os.wait()
            continue
        time.sleep(1)  # containerd has ended, which a test sees by its node


def hierarchies() -> dict[str, Path]:
    """Return the cgroup that this process is in, by controllers; the unified hierarchy's name is empty."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        name = controllers.removeprefix("name=")
        base = CGROUPS / name if name else CGROUPS / "unified" if (CGROUPS / "unified").exists() else CGROUPS
        found[name] = base / path.lstrip("/")
    return found


def _join_cgroups(name: str) -> None:
    for controller, own in hierarchies().items():
        folder = own / name
        folder.mkdir(exist_ok=True)
        if controller == "cpuset":  # starts empty, and takes nobody so
            for each in ("cpuset.cpus", "cpuset.mems"):
                (folder / each).write_text((own / each).read_text())
            (folder / "cgroup.clone_children").write_text("1")
        (folder / "cgroup.procs").write_text(str(os.getpid()))


def _root(state: Path, shown: tuple[Path, ...]) -> None:
    """Change to a root of the node's own."""
    memory = state / "memory"
    memory.mkdir()
    _mount("-t", "tmpfs", "-o", "mode=755,size=512m", "tmpfs", memory)
    for each in ("upper", "work", "root"):
        (memory / each).mkdir()
    root = memory / "root"
    _mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={memory}/upper,workdir={memory}/work", "overlay", root)
    for folder in ("etc/cni/net.d", "opt/cni/bin", "var/lib/kubelet", "var/lib/containerd", "var/lib/cni"):
        shutil.rmtree(root / folder, ignore_errors=True)  # this machine's own
        (root / folder).mkdir(parents=True)
    _mount("-t", "proc", "proc", root / "proc")
    _mount("-t", "sysfs", "sysfs", root / "sys")
    _mount("--rbind", "/dev", root / "dev")
    for each in ("run", "tmp", "sys/fs/cgroup"):
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / each)
    _mount_cgroups(root / "sys/fs/cgroup")
    for path in (*shown, state):
        inside = root / path.relative_to("/")
        inside.mkdir(parents=True, exist_ok=True)
        _mount("--bind", path, inside)
    for name, place in (("containerd", "var/lib/containerd"), ("kubelet", "var/lib/kubelet"), ("log", "var/log")):
        (state / name).mkdir(exist_ok=True)
        _mount("--bind", state / name, root / place)
    (root / ".before").mkdir()
    _run("pivot_root", ".", ".before", cwd=root)
    os.chdir("/")
    _run("umount", "--lazy", "/.before")
    Path("/.before").rmdir()
    _mount("--make-rshared", "/")
    Path("/run/netns").mkdir()


def _mount_cgroups(folder: Path) -> None:
    """Mount them as this machine has them: one hierarchy, or one for each controller with the other beside them."""
    found = [each for each in hierarchies() if each]
    for each in found:
        (folder / each).mkdir()
        options = "none,name=systemd" if each == "systemd" else each
        _mount("-t", "cgroup", "-o", options, "cgroup", folder / each)
    unified = folder / "unified" if found else folder
    unified.mkdir(exist_ok=True)
    _mount("-t", "cgroup2", "cgroup2", unified)
    if not found:  # one that has processes of its own gives its children no controllers
        (unified / "first").mkdir()
        (unified / "first/cgroup.procs").write_text("1")
        wanted = " ".join(f"+{each}" for each in (unified / "cgroup.controllers").read_text().split())
        (unified / "cgroup.subtree_control").write_text(wanted)


def _settings_of_the_kernel() -> None:
    for name, value in _SYSCTLS.items():
        shown = Path("/run", name.replace("/", "."))
        shown.write_text(value)
        _mount("--bind", shown, Path("/proc/sys", name))


def _daemons(told: dict[str, Any]) -> None:
    unpacked = Path(told["unpacked"])
    os.environ["PATH"] = f"{unpacked}/usr/bin:{unpacked}/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    for each in ("bridge", "host-local", "loopback", "portmap"):
        shutil.copy2(unpacked / "usr/lib/cni" / each, "/opt/cni/bin")
    for path, text in node_files.files(told).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    node_files.STATIC.mkdir(parents=True)
    _start("containerd")
    _until(lambda: _tried("ctr", "version"), "containerd answers")
    for each in told["images"]:
        _run("ctr", "-n", "k8s.io", "image", "import", each)
    _until(lambda: _reached(told["api"], told["port"]), "the API is reached")
    programs = told["programs"]
    kubelet = ("--config=/etc/kubernetes/kubelet.yaml", f"--kubeconfig={told['kubeconfig']}", "--v=2")
    addresses = ",".join(told["addresses"])
    _start(programs["kubelet"], *kubelet, f"--hostname-override={told['name']}", f"--node-ip={addresses}")
    _start(programs["kube-proxy"], "--config=/etc/kubernetes/kube-proxy.yaml", f"--hostname-override={told['name']}")


def _start(program: str, *arguments: str) -> None:
    with Path("/var/log", f"{Path(program).name}.log").open("wb") as log:
        subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _tried(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _reached(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def _until(true: Any, what: str) -> None:
    deadline = time.monotonic() + 120
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within 120 s: {what}")
        time.sleep(0.05)


def _mount(*arguments: str | Path) -> None:
    _run("mount", *arguments)


def _run(*argv: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(argv, check=True, cwd=cwd)


if __name__ == "__main__":
    main(Path(sys.argv[-1]), inside="--inside" in sys.argv)
