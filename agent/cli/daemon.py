"""The command that stays: daemon."""

import os
from pathlib import Path
from typing import Annotated

import typer

from agent.cli import node_options
from agent.cli.options import add, need_root, seconds
from agent.errors import ConfigError
from agent.observe import DEFAULT_LISTEN
from agent.sources import DEFAULT_FILE


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add(app, daemon)


def daemon(
    file: Annotated[
        Path, typer.Option("--file", "-f", metavar="FILE", help="The target file, which is watched.")
    ] = DEFAULT_FILE,
    listen: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Where /metrics, /healthz and /readyz are: ADDRESS:PORT on loopback, unix:/PATH, or none.",
        ),
    ] = DEFAULT_LISTEN,
    workers: Annotated[int, typer.Option(min=1, max=4, help="Threads that enter namespaces.")] = 2,
    resync: Annotated[
        float,
        typer.Option(
            min=1,
            callback=seconds,
            metavar="SECONDS",
            help="Time between two looks at a target where nothing changed. Longer with more than 25 targets; ten times"
            " as long of a pod.",
        ),
    ] = 60.0,
    poll: Annotated[
        float,
        typer.Option(
            min=0.5,
            callback=seconds,
            metavar="SECONDS",
            help="Time between two looks at what sends no word: the proxy's ports, settings, rules of iptables-legacy."
            " Longer with more than 25 targets; 24 times as long of a pod.",
        ),
    ] = 5.0,
    drain: Annotated[
        float,
        typer.Option(
            min=0,
            callback=seconds,
            metavar="SECONDS",
            help="Time for the captured streams of a target that left the file.",
        ),
    ] = 60.0,
    own: Annotated[
        bool,
        typer.Option(
            "--own/--no-own",
            help="Own the tables, so that nobody else can change them while the daemon runs (Linux 6.9 and later).",
        ),
    ] = True,
    kubernetes: node_options.Kubernetes = False,
    node: node_options.Node = "",
    kubeconfig: node_options.Kubeconfig = None,
    enablement_selectors: node_options.Selectors = "",
    exclude_namespaces: node_options.Excluded = "kube-system",
    proxy_namespace: node_options.ProxyNamespace = "istio-system",
    agent_namespace: node_options.AgentNamespace = "",
    agent_pod: node_options.AgentPod = "",
    daemon_set: node_options.DaemonSet = "",
    zds_socket: node_options.ZdsSocket = None,
    install_cni: node_options.InstallCni = True,
    cni_bin_dir: node_options.BinDirectory = Path("/host/opt/cni/bin"),
    cni_conf_dir: node_options.ConfDirectory = Path("/host/etc/cni/net.d"),
    cni_netns_dir: node_options.NetnsDirectory = Path("/var/run/netns"),
    cni_conf_name: node_options.ConfName = "",
    own_conflist: node_options.OwnConflist = "",
    fail_open: node_options.FailOpen = "",
    plugin: node_options.Program = Path("/opt/weir/weir-cni"),
    cni_credentials: node_options.Credentials = None,
    istio_cni_socket: node_options.IstioSocket = None,
    host_run_dir: node_options.HostRunDirectory = None,
) -> None:
    """Keep the file's targets captured while everything around them changes.

    Watches the file (and reads it again on SIGHUP; a bad one changes nothing), namespaces that come and go, and what
    others do to rules and routes. Commands reach it on a unix socket in /run/weir (WEIR_RUN_DIR). Stopping it leaves
    traffic as it is: rules stay, and the next start takes them over.

    With --kubernetes the cluster's labels say which pods of this node are captured, and the file only how ([defaults]).
    The CNI plugin has a pod captured before it starts; ztunnel is told which pods to serve.
    """
    need_root("daemon")
    from agent.daemon.pace import Rhythm
    from agent.daemon.run import run
    from agent.daemon.settings import Settings
    from agent.observe import otlp_settings, spans
    from agent.observe.endpoints import parse_listen, parse_metrics

    _log()
    on_node = None
    if kubernetes:
        on_node = node_options.node_settings(
            node=node,
            kubeconfig=kubeconfig,
            selectors=enablement_selectors,
            excluded=exclude_namespaces,
            proxy_namespace=proxy_namespace,
            agent=(agent_namespace, agent_pod, daemon_set),
            zds_socket=zds_socket,
            plugin=(plugin, cni_bin_dir, cni_conf_dir, cni_conf_name, own_conflist, fail_open, cni_credentials)
            if install_cni
            else None,
            netns_directory=cni_netns_dir,
            istio_socket=istio_cni_socket,
            host_run_directory=host_run_dir,
        )
    settings = Settings(
        file=file.absolute(),
        listen=parse_listen(listen),
        workers=workers,
        rhythm=Rhythm(resync=resync, poll=poll),
        drain=drain,
        own=own,
        metrics=parse_metrics(os.environ.get("METRICS_ADDRESS", ""), os.environ.get("METRICS_PORT", "")),
        kubernetes=on_node,
    )
    traced = otlp_settings.settings(os.environ)
    if traced is not None:
        spans.start(traced)
    try:
        run(settings)
    finally:
        spans.stop()


def _log() -> None:
    """Begin to log on standard error: from LOG_LEVEL on (info), each a document with LOG_AS_JSON=true."""
    import logging

    level = os.environ.get("LOG_LEVEL", "").upper() or "INFO"
    level = {"WARN": "WARNING"}.get(level, level)
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError(f"LOG_LEVEL = {level.lower()!r}: wants debug, info, warning or error")
    from agent.observe.json_log import Documents, Lines

    logging.basicConfig(level=level)
    as_json = os.environ.get("LOG_AS_JSON", "").lower() == "true"
    for each in logging.getLogger().handlers:
        each.setFormatter(Documents() if as_json else Lines())
    for name in ("httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
