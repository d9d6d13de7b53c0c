"""A client for the API server of a kubeconfig, or of the cluster that this runs in. Heavy to import."""

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import yaml
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import SERVICE_ACCOUNT, KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

from agent.errors import ConfigError

_HOW_TO_REACH = "in a pod, mount the service account's token; elsewhere name a kubeconfig by --kubeconfig or KUBECONFIG"
# A machine that vanished sends no word: the kernel asks after 15 s, and gives up after 30.
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),  # and for what was sent and isn't acknowledged
)
_CONNECTIONS, _KEPT, _KEPT_SECONDS = 24, 4, 60.0
_SECONDS = 5.0  # for each step of a request; whoever asks sets a deadline for the whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client and the URL of its server. `renew` reads the certificate authority again: it may have been replaced."""

    http: httpx2.AsyncClient
    server: str
    renew: Callable[[], None]


def open_client(kubeconfig: Path | None) -> Client:
    """Return a client for the API server of a kubeconfig, or of the cluster that this runs in. Raises `ConfigError`."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request
    config = _config(kubeconfig)
    user = config.user or User()
    try:
        context = client_adapter.verify_cluster(config.cluster, user, config.abs_file, trust_env=False)
        transport = httpx2.AsyncHTTPTransport(
            verify=context,
            trust_env=False,
            socket_options=_SOCKET_OPTIONS,
            limits=httpx2.Limits(
                max_connections=_CONNECTIONS, max_keepalive_connections=_KEPT, keepalive_expiry=_KEPT_SECONDS
            ),
        )
        client = httpx2.AsyncClient(
            auth=client_adapter.user_auth(config.user),
            base_url=config.cluster.server,
            # Pages of 100 pods gain nothing from being compressed inside a cluster, and both sides pay for it.
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "weir"},
            timeout=httpx2.Timeout(_SECONDS, pool=None),
            transport=transport,
            trust_env=False,  # a proxy of the environment is for the world outside
        )
    except (LightkubeConfigError, OSError, ValueError, httpx2.InvalidURL) as error:
        raise ConfigError(f"{_named(kubeconfig)}: {error}", hint=_HOW_TO_REACH) from None

    def renew() -> None:
        if config.cluster.certificate_auth:
            try:
                context.load_verify_locations(config.abs_file(config.cluster.certificate_auth))
            except OSError:  # half-written, or away for the moment: the next failure reads it again
                pass

    return Client(http=client, server=config.cluster.server, renew=renew)


_HOW_TO_REACH = "in a pod, mount the service account's token; elsewhere name a kubeconfig by --kubeconfig or KUBECONFIG"


def _named(kubeconfig: Path | None) -> str:
    return f"kubeconfig {kubeconfig}" if kubeconfig else f"in-cluster configuration {SERVICE_ACCOUNT}"


def _config(kubeconfig: Path | None) -> SingleConfig:
    try:
        whole = KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_service_account()
        config = whole.get()
    except KeyError as error:
        raise ConfigError(f"{_named(kubeconfig)}: {error} is missing", hint=_HOW_TO_REACH) from None
    except (LightkubeConfigError, OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        # msgspec's ValidationError is a ValueError
        raise ConfigError(f"{_named(kubeconfig)}: {' '.join(str(error).split())}", hint=_HOW_TO_REACH) from None
    if config is None:
        raise ConfigError(f"{_named(kubeconfig)}: has no current context", hint=_HOW_TO_REACH)
    return config
