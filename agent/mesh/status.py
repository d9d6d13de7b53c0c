"""What the server of ZDS tells: answers to whoever asked for something, and how it stands."""

from dataclasses import asdict, dataclass, field

from agent.mesh.session import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A connected proxy: its process (0 where that can't be seen from here), user, and the connection's number."""

    pid: int
    user: int
    number: int

    def __str__(self) -> str:
        return f"proxy {self.number} (process {self.pid or 'unknown'}, user {self.user})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """The proxy has done it: of an Add, it listens in the pod's namespace."""

    proxy: Proxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The proxy said no, in its own words. It is asked again every few seconds while it is wanted."""

    proxy: Proxy
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """Nobody has said anything yet; `words` say what is missing. What is wanted stays wanted."""

    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """No connected proxy serves the pod any more. `proxies` have acknowledged that; there may have been none."""

    proxies: tuple[Proxy, ...]


Standing = Acknowledged | Refused | Unanswered


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyState:
    """How one connection stands. `asked` is the request without an answer, `refused` has the proxy's words by uid."""

    proxy: Proxy
    phase: Phase
    newest: bool
    version: int
    seconds: float  # since it connected
    told: int  # pods
    queued: int  # pods, at most
    asked: str
    refused: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that went wrong, and when, in seconds since the epoch."""

    time: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshState:
    """How the server stands. `socket` is empty where the path leads to its socket, and else says what is wrong."""

    path: str
    socket: str
    complete: bool  # every pod is known, so that snapshots can end
    wanted: int  # pods
    acknowledged: int  # pods, by the newest proxy
    proxies: tuple[ProxyState, ...]
    problems: tuple[Problem, ...]  # the last ones

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(slots=True)
class Counters:
    """What has happened since the start, for metrics."""

    connections: int = 0
    refused_connections: int = 0  # of users who may not
    broken_connections: int = 0  # by a proxy's fault: late, garbled, out of turn
    snapshots: int = 0  # acknowledged
    acknowledged: dict[str, int] = field(default_factory=lambda: {"Add": 0, "Keep": 0, "Delete": 0, "SnapshotSent": 0})
    refused: int = 0  # requests
    seconds: float = 0.0  # spent waiting for all these answers
