"""`Node`: a machine with an agent, its API and its runtime, and pods that come through a chain of real CNI plugins."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Self

from netns_tests.command import Command
from netns_tests.daemon import Daemon
from netns_tests.machine import Machine
from netns_tests.node.api import Api, Object
from netns_tests.patience import slow
from netns_tests.pod_processes import SLEEP, Pods, hierarchies
from netns_tests.world import Host
from tests.cni import entry, program

__all__ = ["Agent", "Node", "Pod", "plugins"]

NODE, NAMESPACE = "node-1", "shop"
SECONDS = slow(30.0)
HERE = Path(__file__).resolve().parent.parent.parent
# Where the distributions keep the plugins of the containernetworking project.
_PLUGINS = tuple(Path(each) for each in ("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"))
_RANGES = [[{"subnet": "10.77.0.0/16"}], [{"subnet": "fd77::/64"}]]
_ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


def plugins() -> Path:
    """Return the folder of Debian's plugins. Fails where they aren't installed."""
    found = next((each for each in _PLUGINS if (each / "bridge").exists()), None)
    assert found is not None, "install containernetworking-plugins: there is no bridge"
    return found


class Pod(Host):
    """A pod that the runtime has started: its namespace as the test process finds it, and its addresses."""

    def __init__(self, machine: Machine, name: str, number: int) -> None:
        """Describe a pod; its namespace is called after its number."""
        super().__init__(f"cni-{number}", os.getpid())
        self.path = Path(f"/proc/{machine.pid}/root/run/netns/{self.name}")
        self.number = number
        self.pod = name
        self.uid = str(uuid.uuid4())
        self.result: Any = None
        self.seconds = 0.0  # that Weir's plugin took


class Agent(Daemon):
    """`weir daemon --kubernetes` on the machine."""

    def __init__(self, machine: Machine, directory: Path, kubeconfig: Path, *arguments: str, defaults: str) -> None:
        """Say where it finds the API; nothing runs before `start`."""
        self.zds = directory / "ztunnel.sock"
        options = [f"--node={NODE}", f"--kubeconfig={kubeconfig}", f"--zds-socket={self.zds}", "--no-install-cni"]
        super().__init__(directory, defaults, "--kubernetes", *options, *arguments)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._started = Command(self.directory, (*machine.prefix, "setpriv", "--pdeathsig", "KILL"))
        self.weir = Command(self.directory, machine.prefix)

    @property
    def pid(self) -> int:
        """Its process: `nsenter` is its parent."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, and return the exit code."""
        assert self.process is not None
        try:
            os.kill(self.pid, number)
        except (IndexError, FileNotFoundError, ProcessLookupError):
            pass  # it has ended by itself
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return what it says of each pod, by the pod's name."""
        known: Any = self.client.status()["pods"]
        return {each["name"]: each for each in known}

    def steps(self) -> dict[str, str]:
        """Return how far each pod is, in its view."""
        return {name: each["step"] for name, each in self.pods().items()}


class Node:
    """The machine and all that belongs to it. Use it in a `with` block."""

    def __init__(self, *arguments: str, defaults: str = "[defaults]\n") -> None:
        """`arguments` are more of the agent's; `defaults` is its file. The agent isn't started yet."""
        self._arguments, self._defaults = arguments, defaults
        self._cleanup = ExitStack()
        self._numbers = 0
        self.pods: dict[str, Pod] = {}
        self.machine: Machine
        self.host: Host
        self.api: Api
        self.agent: Agent

    def __enter__(self) -> Self:
        """Make the machine, with a cluster of one empty namespace."""
        with ExitStack() as stack:
            self.machine = stack.enter_context(Machine())
            self.host = Host("machine", os.getpid())
            self.host.path = self.machine.path
            self.api = stack.enter_context(Api(self.host.run(_listening)))
            self.api.put("namespaces", {"metadata": {"name": NAMESPACE, "uid": str(uuid.uuid4()), "labels": {}}})
            # In memory, as /run is on a node.
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-node-", dir=_memory())))
            kubeconfig = directory / "kubeconfig"
            kubeconfig.write_text(self.api.kubeconfig())
            self.agent = stack.enter_context(
                Agent(self.machine, directory, kubeconfig, *self._arguments, defaults=self._defaults)
            )
            self._runtime = subprocess.Popen(
                [*self.machine.prefix, sys.executable, str(HERE / "netns_tests/node/runtime.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(self._end_runtime)
            self._processes = stack.enter_context(Pods(hierarchies()[0]))
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End everything."""
        self._cleanup.close()

    def _end_runtime(self) -> None:
        assert self._runtime.stdin is not None
        assert self._runtime.stdout is not None
        self._runtime.stdin.close()
        self._runtime.wait(SECONDS)
        self._runtime.stdout.close()

    def tell(self, **command: object) -> Any:
        """Have the runtime do something; return its answer."""
        assert self._runtime.stdin is not None
        assert self._runtime.stdout is not None
        self._runtime.stdin.write(f"{json.dumps(command)}\n")
        self._runtime.stdin.flush()
        line = self._runtime.stdout.readline()
        assert line, "the runtime has ended: see above"
        return json.loads(line)

    def label(self, labels: Mapping[str, str | None]) -> None:
        """Change the labels of the pods' namespace; None takes one away."""
        self.api.change("namespaces", "", NAMESPACE, {"metadata": {"labels": dict(labels)}})

    def create(
        self,
        *names: str,
        lines: Callable[[int], Sequence[str]] = lambda _number: (),
        labels: Mapping[str, str] | None = None,
        **spec: object,
    ) -> list[Pod]:
        """Create pods, which the API binds to this node, and their namespaces; none is started yet.

        `lines` are for `ip -batch` in the namespace of the pod with a number, which no other pod has.
        """
        made = []
        for name in names:
            self._numbers += 1
            self.pods[name] = Pod(self.machine, name, self._numbers)
            made.append(self.pods[name])
        self.tell(do="sandbox", names=[pod.name for pod in made], lines=[list(lines(pod.number)) for pod in made])
        self.api.put("pods", *(document(pod, labels or {}, **spec) for pod in made))
        return made

    def start(self, *names: str, labels: Mapping[str, str] | None = None, **spec: object) -> list[Pod]:
        """Create pods and add them by the whole chain, all at once; then they run. Fails where one of them fails."""
        made = self.create(*names, lines=lambda _number: (), labels=labels, **spec)
        for pod, done in zip(made, self.add(made, bridge(), portmap(), self.plugin()), strict=True):
            assert done[-1]["code"] == 0, f"{pod.pod}: {done[-1]['out']}{done[-1]['err']}\n{self.agent.log[-4000:]}"
            pod.result = json.loads(done[-1]["out"])
            pod.seconds = done[-1]["seconds"]
            self.running(pod)
            self.live(pod)
        return made

    def live(self, pod: Pod, *program: str) -> None:
        """Have a process in a pod, in its cgroup: by that its namespace is found where nobody names it."""
        inside = ("nsenter", f"--target={self.machine.pid}", "--pid", "--mount", "--", *(program or SLEEP))
        self._processes.start(f"kubepods/besteffort/pod{pod.uid}/{pod.uid.replace('-', '') * 2}", *inside, into=pod)

    def running(self, *pods: Pod) -> None:
        """Have the API know the addresses of pods that were added, and that they run."""
        for pod in pods:
            found = [ip_interface(each["address"]).ip for each in pod.result["ips"]]
            pod.v4 = next((str(each) for each in found if each.version == 4), "")
            pod.v6 = next((str(each) for each in found if each.version == 6), "")
            addresses = [{"ip": str(each)} for each in found]
            status = {"phase": "Running", "podIP": addresses[0]["ip"], "podIPs": addresses}
            self.api.change("pods", NAMESPACE, pod.pod, {"status": status})

    def add(self, pods: Iterable[Pod], *chain: Mapping[str, Any], command: str = "ADD") -> list[list[dict[str, Any]]]:
        """Run a chain for each pod, all at once; return how each plugin of each chain ended."""
        return list(self.tell(do="run", calls=[[call(pod, each, command) for each in chain] for pod in pods]))

    def plugin(self) -> dict[str, Any]:
        """Return the configuration of Weir's plugin."""
        return {**entry(self.agent.directory).document(), "program": str(program())}

    def until(self, holds: Callable[[dict[str, str]], object], what: str, seconds: float = SECONDS) -> None:
        """Wait until something holds of the pods' steps."""
        self.agent.eventually(lambda: holds(self.agent.steps()), what, seconds)

    def wait_for(self, step: str, *names: str) -> None:
        """Wait until pods, or all of them, have come to a step."""
        wanted = set(names or self.pods)
        self.until(lambda steps: all(steps.get(each) == step for each in wanted), f"{sorted(wanted)} are {step}")


def bridge() -> dict[str, Any]:
    """Return the configuration of Debian's bridge, with host-local's addresses."""
    ipam = {"type": "host-local", "dataDir": "/run/leases", "ranges": _RANGES, "routes": _ROUTES}
    return {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam, "program": str(plugins() / "bridge")}


def portmap() -> dict[str, Any]:
    """Return the configuration of Debian's portmap."""
    return {"type": "portmap", "capabilities": {"portMappings": True}, "program": str(plugins() / "portmap")}


def call(pod: Pod, plugin: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return the call of a plugin for a pod, as the runtime makes it."""
    names = {"K8S_POD_NAMESPACE": NAMESPACE, "K8S_POD_NAME": pod.pod, "K8S_POD_UID": pod.uid}
    arguments = {"IgnoreUnknown": "1", **names, "K8S_POD_INFRA_CONTAINER_ID": f"sandbox-{pod.uid}"}
    environment = {
        "PATH": os.environ["PATH"],
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"sandbox-{pod.uid}",
        "CNI_NETNS": f"/run/netns/{pod.name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(plugins()),
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
    }
    configuration = {"cniVersion": "1.0.0", "name": "pods", **plugin}
    if pod.result is not None:
        configuration["prevResult"] = pod.result
    path = configuration.pop("program")
    return {"program": path, "input": json.dumps(configuration), "environment": environment}


def document(pod: Pod, labels: Mapping[str, str], **spec: object) -> Object:
    """Return a pod as the API has it before it runs."""
    metadata = {"name": pod.pod, "namespace": NAMESPACE, "uid": pod.uid, "labels": {"app": "web", **labels}}
    whole = {"nodeName": NODE, "serviceAccountName": "web", "containers": [{"name": "app"}], **spec}
    return {"metadata": metadata, "spec": whole, "status": {"phase": "Pending"}}


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _listening() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener
