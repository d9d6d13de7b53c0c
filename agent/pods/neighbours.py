"""What the pods need of others, each as narrow as it can be."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from agent.errors import WeirError
from agent.kernel.netns import Identity
from agent.mesh.roster import Descriptor
from agent.mesh.status import Refused, Released, Standing, Unanswered
from agent.mesh.wire import Workload
from agent.sources.kubernetes.facts import Namespace, Pod
from agent.sources.kubernetes.sandboxes import Sandbox, Unfit
from agent.targets import Target
from rulesets.host import ProbeTarget


class Unreadable(Protocol):
    """A pod of the API with a field that can't be read."""

    @property
    def namespace(self) -> str:
        """Its namespace."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def error(self) -> object:
        """Which field has which value, and why that can't be read: by `str`."""


class Listing(Protocol):
    """What the API has said of this node so far: `agent.sources.kubernetes.informer.Informer`."""

    @property
    def pods(self) -> Mapping[str, Pod]:
        """The pods of this node, by uid."""

    @property
    def unreadable(self) -> "Mapping[str, Unreadable]":
        """Those that can't be read."""

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """Every namespace, by name."""

    @property
    def complete(self) -> bool:
        """Whether both were listed whole once."""

    def find(self, namespace: str, name: str) -> Pod | None:
        """Return the pod of this node that has a name now."""


class Api(Protocol):
    """What is asked of the API directly: `agent.sources.kubernetes.api.Api`."""

    async def pod(self, namespace: str, name: str) -> Pod | None:
        """Return a pod; None where there is none. Raises `WeirError`."""

    async def namespace(self, name: str) -> Namespace | None:
        """Return a namespace; None where there is none. Raises `WeirError`."""

    async def redirect_state(self, pod: Pod, value: str | None) -> object:
        """Set or drop the pod's annotation of its state, if it still is that pod. Raises `WeirError`."""

    async def event(self, pod: Pod, reason: str, note: str, *, warning: bool) -> None:
        """Tell of something on a pod. Never raises."""


class Memory(Protocol):
    """The sandboxes that outlive the agent: `agent.sources.kubernetes.sandboxes.Sandboxes`. For worker threads."""

    def remember(self, sandbox: Sandbox) -> Sandbox:
        """Keep a sandbox, and return it with the path to use."""

    def forget(self, uid: str) -> None:
        """Keep nothing of a pod; from any thread."""

    def known(self, uid: str) -> Sandbox | None:
        """Return a pod's sandbox, if it is there."""

    def all_known(self) -> Mapping[str, Sandbox]:
        """Return all that are there, by uid."""

    def keep_only(self, uids: Collection[str]) -> None:
        """Forget all others."""


class Probes(Protocol):
    """The node's table: `agent.pods.probes.NodeProbes`. Each raises `WeirError` and tries again by itself."""

    async def fill(self, targets: Mapping[str, tuple[ProbeTarget, ...]]) -> None:
        """Take what every pod of the node needs, once after a start."""

    async def put(self, uid: str, targets: tuple[ProbeTarget, ...]) -> None:
        """Have a pod's probes let through, and return when the kernel has acknowledged it."""

    async def drop(self, uid: str) -> None:
        """Have nothing of a pod in the table."""


class Proxies(Protocol):
    """Who is told which pods to serve: `agent.mesh.server.Mesh`."""

    def want(self, workload: Workload, descriptor: Descriptor) -> None:
        """Have a pod served in the namespace of a descriptor. Raises `WeirError`."""

    def keep(self, uid: str) -> None:
        """Have a pod go on being served."""

    def standing(self, uid: str) -> Standing | None:
        """Return how a pod stands with the proxies."""

    async def delete(self, uid: str, seconds: float) -> Released | Refused | Unanswered:
        """Have a pod served no more, and wait so long for the proxies' word."""

    def complete(self, pods: Iterable[tuple[Workload, Descriptor | None]]) -> tuple[tuple[Workload, WeirError], ...]:
        """Take every captured pod of the node, once; return those whose descriptors can't be used."""

    async def until_snapshot(self, seconds: float) -> None:
        """Wait until a proxy has been told of them all, at most so long."""


class Rules(Protocol):
    """The rules of each namespace: `agent.daemon.keeper.Keeper`."""

    def put(self, target: Target, *, leaving: bool = False) -> None:
        """Want a target; one that is `leaving` is kept no longer when nothing is left in its namespace."""

    def retire(self, netns: str) -> None:
        """Keep a namespace no longer, and let it go as it is: it is about to end."""

    def remembers(self, identity: Identity, cookie: int) -> bool:
        """Tell whether an earlier life has captured a namespace, by its identity and the kernel's cookie."""


Find = Callable[[Iterable[Pod]], Mapping[str, Sandbox | Unfit]]
