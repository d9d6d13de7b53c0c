"""The options of a daemon on a node of Kubernetes, which Weir's chart sets by environment variables."""

import os
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.daemon.node_settings import NodeSettings

_PANEL = "On a node of Kubernetes"


def _option(name: str, envvar: str, text: str, metavar: str) -> object:
    return typer.Option(
        name, envvar=envvar, help=text, metavar=metavar, show_envvar=True, show_default=False, rich_help_panel=_PANEL
    )


Kubernetes = Annotated[
    bool,
    typer.Option("--kubernetes", help="Keep this node's pods captured, as their labels say.", show_default=False),
]
Node = Annotated[str, _option("--node", "NODE_NAME", "The node's name.", "NAME")]
Kubeconfig = Annotated[
    Path | None, _option("--kubeconfig", "KUBECONFIG", "How to reach the API; else the pod's own account.", "FILE")
]
Selectors = Annotated[
    str,
    _option(
        "--enablement-selectors",
        "AMBIENT_ENABLEMENT_SELECTOR",
        "Which pods, as Istio's enablementSelectors; else istio.io/dataplane-mode=ambient.",
        "YAML",
    ),
]
Excluded = Annotated[str, _option("--exclude-namespaces", "EXCLUDE_NAMESPACES", "Never these.", "A,B")]
ProxyNamespace = Annotated[
    str, _option("--proxy-namespace", "PROXY_NAMESPACE", "Where ztunnel runs; else istio-system.", "NAME")
]
AgentNamespace = Annotated[str, _option("--agent-namespace", "POD_NAMESPACE", "Where this agent runs.", "NAME")]
AgentPod = Annotated[str, _option("--agent-pod", "POD_NAME", "The pod of this agent.", "NAME")]
DaemonSet = Annotated[
    str, _option("--daemon-set", "DAEMON_SET", "The DaemonSet of this agent: when it goes, Weir goes.", "NAME")
]
ZdsSocket = Annotated[
    Path | None,
    _option("--zds-socket", "ZDS_SOCKET", "Where ztunnel connects; else /var/run/ztunnel/ztunnel.sock.", "PATH"),
]
InstallCni = Annotated[
    bool,
    typer.Option(
        "--install-cni/--no-install-cni",
        envvar="INSTALL_CNI",
        help="Put the CNI plugin on the node, and keep it there.",
        show_envvar=True,
    ),
]
BinDirectory = Annotated[
    Path, _option("--cni-bin-dir", "CNI_BIN_DIR", "Where plugins are; else /host/opt/cni/bin.", "FOLDER")
]
ConfDirectory = Annotated[
    Path, _option("--cni-conf-dir", "CNI_CONF_DIR", "Where networks are; else /host/etc/cni/net.d.", "FOLDER")
]
NetnsDirectory = Annotated[
    Path,
    _option("--cni-netns-dir", "CNI_NETNS_DIR", "Where the runtime keeps namespaces; else /var/run/netns.", "FOLDER"),
]
ConfName = Annotated[str, _option("--cni-conf-name", "CNI_CONF_NAME", "The network to chain into.", "NAME")]
OwnConflist = Annotated[
    str, _option("--own-conflist", "OWN_CONFLIST", "A file of Weir's own instead of a change to another's.", "NAME")
]
FailOpen = Annotated[
    str,
    _option("--fail-open", "FAIL_OPEN_NAMESPACES", "Whose pods start uncaptured where no agent answers.", "A,B"),
]
Program = Annotated[Path, _option("--plugin", "WEIR_PLUGIN", "The plugin as the image has it.", "FILE")]
Credentials = Annotated[
    Path | None,
    _option("--cni-credentials", "CNI_CREDENTIALS", "The plugin's own account: token and ca.crt.", "FOLDER"),
]
IstioSocket = Annotated[
    Path | None,
    _option("--istio-cni-socket", "ISTIO_CNI_SOCKET", "Where to answer Istio's plugin, too.", "PATH"),
]
HostRunDirectory = Annotated[
    Path | None, _option("--host-run-dir", "HOST_RUN_DIR", "The run directory as the node sees it.", "FOLDER")
]


def node_settings(
    *,
    node: str,
    kubeconfig: Path | None,
    selectors: str,
    excluded: str,
    proxy_namespace: str,
    agent: tuple[str, str, str],
    zds_socket: Path | None,
    plugin: "tuple[Path, Path, Path, str, str, str, Path | None] | None",
    netns_directory: Path,
    istio_socket: Path | None,
    host_run_directory: Path | None,
) -> "NodeSettings":
    """Return the settings that options and environment come to. Raises `ConfigError`."""
    from agent.daemon.node_settings import PATH, NodeSettings, Plugin, names
    from agent.daemon.node_settings import selectors as read

    if not node:
        raise ConfigError("--kubernetes: which node is this?", hint="name it with --node, or set NODE_NAME")
    agent_namespace, agent_pod, daemon_set = agent
    installed = None
    if plugin is not None:
        program, bin_directory, conf_directory, conf_name, own_name, fail_open, credentials = plugin
        installed = Plugin(
            program=program,
            bin_directory=bin_directory,
            conf_directory=conf_directory,
            on_node=_on_node(),
            conf_name=conf_name,
            own_name=own_name,
            fail_open=names(fail_open),
            credentials=credentials,
            server=_server(),
        )
    return NodeSettings(
        node=node,
        kubeconfig=kubeconfig,
        selectors=read(selectors),
        exclude_namespaces=names(excluded),
        proxy_namespace=proxy_namespace or "istio-system",
        agent_namespace=agent_namespace,
        agent_pod=agent_pod,
        daemon_set=daemon_set,
        zds_socket=zds_socket or PATH,
        netns_directory=netns_directory,
        istio_socket=istio_socket,
        plugin=installed,
        host_run_directory=host_run_directory,
    )


def _on_node() -> tuple[Path, Path] | None:
    """Return the plugin's folders as the node has them, by HOST_CNI_BIN_DIR and HOST_CNI_CONF_DIR.

    Raises `ConfigError`.
    """
    names = ("HOST_CNI_BIN_DIR", "HOST_CNI_CONF_DIR")
    programs, folder = (os.environ.get(each, "") for each in names)
    if not programs and not folder:
        return None
    for name, path in zip(names, (programs, folder), strict=True):
        if not path.startswith("/"):
            hint = f"set {' and '.join(names)} to paths of the node, or neither"
            raise ConfigError(f"{name} = {path!r}: wants an absolute path", hint=hint)
    return Path(programs), Path(folder)


def _server() -> str:
    """Return where a pod of the node reaches the API; empty where nobody says."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        host = f"[{IPv6Address(host)}]"
    except ValueError:
        pass
    return f"https://{host}:{port}" if host else ""
