"""How the daemon runs on a node of Kubernetes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.cni import entry
from agent.errors import ConfigError
from agent.mesh.listener import PATH
from agent.sources import file as target_file
from agent.sources.kubernetes.eligibility import Policy
from agent.sources.kubernetes.facts import DATAPLANE_MODE, FieldError
from agent.sources.kubernetes.selectors import enablement_of
from agent.sources.kubernetes.yaml_text import YamlError, documents
from agent.targets import Captured
from rulesets.capture import Capture

__all__ = ["DEFAULT_SELECTORS", "PATH", "NodeSettings", "Plugin", "captured_by", "names", "selectors"]

# Istio's own (manifests/charts/istio-cni/values.yaml, ambient.enablementSelectors).
DEFAULT_SELECTORS: tuple[Mapping[str, object], ...] = (
    {"podSelector": {"matchLabels": {DATAPLANE_MODE: "ambient"}}},
    {
        "podSelector": {"matchExpressions": [{"key": DATAPLANE_MODE, "operator": "NotIn", "values": ["none"]}]},
        "namespaceSelector": {"matchLabels": {DATAPLANE_MODE: "ambient"}},
    },
)
_WHERE = "enablement selectors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """What is installed for the container runtime. `program` is the plugin as the image has it.

    `on_node` are the folders of programs and of configurations as the node itself has them; None: at the same paths.
    `credentials` is a folder with ``token`` and ``ca.crt`` of the plugin's own account; None installs no way to the
    API, and then the plugin can't tell what to do while the agent is away.
    """

    program: Path = Path("/opt/weir/weir-cni")
    bin_directory: Path = Path("/host/opt/cni/bin")
    conf_directory: Path = Path("/host/etc/cni/net.d")
    on_node: tuple[Path, Path] | None = None
    conf_name: str = ""
    own_name: str = ""
    fail_open: tuple[str, ...] = ()
    credentials: Path | None = None
    server: str = ""  # the API as the node reaches it, a URL


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """How the daemon runs on a node of Kubernetes.

    `kubeconfig` None is the pod's own account. `selectors` are Istio's enablementSelectors. `netns_directory` is the
    folder in which the runtime keeps its namespaces; None believes any path. `istio_socket` is where Istio's plugin is
    answered; None: nowhere. `plugin` None installs nothing. `host_run_directory` is the run directory as the node sees
    it; None where it has the same path. `agent_namespace`, `agent_pod` and `daemon_set` say who this agent is; empty
    where it runs by itself.
    """

    node: str
    kubeconfig: Path | None = None
    selectors: tuple[Mapping[str, object], ...] = field(default=DEFAULT_SELECTORS, hash=False)
    exclude_namespaces: tuple[str, ...] = ("kube-system",)
    proxy_namespace: str = "istio-system"
    agent_namespace: str = ""
    agent_pod: str = ""
    daemon_set: str = ""
    zds_socket: Path = PATH
    netns_directory: Path | None = Path("/var/run/netns")
    istio_socket: Path | None = None
    plugin: Plugin | None = None
    host_run_directory: Path | None = None

    @property
    def policy(self) -> Policy:
        """Which pods are to be captured. Raises `ConfigError`."""
        try:
            enablement = enablement_of(list(self.selectors), _WHERE)
        except FieldError as error:
            raise ConfigError(str(error)) from None
        return Policy(
            enablement=enablement,
            excluded_namespaces=self.exclude_namespaces,
            proxy_namespace=self.proxy_namespace,
        )


def selectors(text: str) -> tuple[Mapping[str, object], ...]:
    """Return Istio's enablementSelectors from YAML; Istio's own where there is none. Raises `ConfigError`."""
    if not text.strip():
        return DEFAULT_SELECTORS
    try:
        found = list(documents(text))
        if len(found) != 1 or not isinstance(found[0].value, list):
            raise ConfigError(f"{_WHERE}: wants one list of podSelector and namespaceSelector")
        enablement_of(found[0].value, _WHERE)
        entry.selectors(found[0].value)
    except (FieldError, YamlError) as error:
        raise ConfigError(f"{_WHERE}: {error}") from None
    return tuple(found[0].value)


def names(text: str) -> tuple[str, ...]:
    """Return the names between commas."""
    return tuple(each.strip() for each in text.split(",") if each.strip())


def captured_by(defaults: Mapping[str, object]) -> tuple[Capture, bool]:
    """Return how pods are captured that say nothing else, and whether another agent's rules are replaced."""
    target = target_file.target("defaults", "defaults", defaults)
    if target.observe:
        raise ConfigError(
            f"defaults: observe = {list(map(str, target.observe))}: is for targets of a file, not for a node's pods",
            hint="WEIR_POD_SERIES gives pods series of their own, of what costs next to nothing",
        )
    return target.wish.capture if isinstance(target.wish, Captured) else Capture(), target.migrate
