"""Keeps the plugin on the node, and what it needs to reach the API while the agent is away."""

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from pathlib import Path

from agent.cni import kubeconfig
from agent.cni.entry import Entry, selectors
from agent.cni.installation import Installation, Standing
from agent.cni.installer import Installer
from agent.cni.keeping import keep
from agent.cni.kubeconfig import Credentials
from agent.cni.server import SOCKET_NAME
from agent.daemon.node_settings import NodeSettings, Plugin
from agent.errors import ConfigError, PermissionMissing
from agent.pods import leavings

log = logging.getLogger("weir.cni")
REFRESH, RETRY = 30.0, 2.0  # seconds until credentials are read again, and until what failed is tried again


class Installing:
    """The plugin's installation. Nothing happens before `run`."""

    def __init__(self, settings: NodeSettings, plugin: Plugin, run_directory: Path) -> None:
        """Take where things are. Raises `ConfigError`."""
        self._plugin = plugin
        self._run_directory = run_directory
        seen = settings.host_run_directory or run_directory
        exempt = [f"{settings.proxy_namespace}/ztunnel-*"]
        if settings.agent_namespace and settings.daemon_set:
            exempt.append(f"{settings.agent_namespace}/{settings.daemon_set}-*")
        self.installer = Installer(
            Installation(
                program=plugin.program,
                entry=Entry(
                    agent_socket=str(seen / SOCKET_NAME),
                    kubeconfig=str(seen / kubeconfig.NAME),
                    selectors=selectors(settings.selectors),
                    exclude_namespaces=settings.exclude_namespaces,
                    exempt_pods=tuple(exempt),
                    fail_open=plugin.fail_open,
                ),
                bin_directory=plugin.bin_directory,
                conf_directory=plugin.conf_directory,
                conf_name=plugin.conf_name,
                own_name=plugin.own_name,
            )
        )
        self.results: Counter[str] = Counter()  # passes that wrote or failed, as Istio's metric names them
        self.standing = Standing(ready=False, reason="nothing is installed yet")

    async def run(self) -> None:
        """Keep it in place for ever."""
        await self._note_is_there()
        await self._credentials_are_there()
        refreshing = asyncio.create_task(self._refresh())
        try:
            while True:
                try:
                    await keep(self.installer, self._told)
                except OSError as error:
                    self._told(Standing(ready=False, reason=f"the plugin can't be kept in place: {error}"))
                await asyncio.sleep(RETRY)
        finally:
            refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await refreshing

    async def _note_is_there(self) -> None:
        """Wait until it is written down what is put on the node, for whoever takes it off without this agent."""
        while True:
            noted = leavings.leavings_of(self.installer.wanted, on_node=self._plugin.on_node)
            try:
                await asyncio.to_thread(leavings.note, noted, self._run_directory)
            except PermissionMissing as error:
                self._told(Standing(ready=False, reason=str(error), hint=error.hint))
                await asyncio.sleep(RETRY)
            else:
                return

    async def _credentials_are_there(self) -> None:
        """Wait for what the plugin needs: a pod that starts while the agent is away would wait for it in vain."""
        while True:
            try:
                await asyncio.to_thread(self._write_credentials)
            except ConfigError as error:
                self._told(
                    Standing(ready=False, reason=str(error), hint=error.hint, failure="CREATE_KUBECONFIG_FAILURE")
                )
                await asyncio.sleep(RETRY)
            else:
                return

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH)
            try:
                await asyncio.to_thread(self._write_credentials)
            except ConfigError as error:
                log.warning("what the plugin reaches the API with stays as it was: %s", error)

    def _write_credentials(self) -> None:
        folder = self._plugin.credentials
        if folder is None:
            return
        token, authority = _read(folder / "token"), _read(folder / "ca.crt")
        if not self._plugin.server:
            raise ConfigError("nobody says where the API is", hint="set KUBERNETES_SERVICE_HOST and _PORT")
        kubeconfig.write(self._run_directory, Credentials(server=self._plugin.server, authority=authority, token=token))

    def _told(self, standing: Standing) -> None:
        if (standing.ready, standing.reason) != (self.standing.ready, self.standing.reason):
            hint = f" ({standing.hint})" if standing.hint else ""
            log.log(logging.INFO if standing.ready else logging.WARNING, "plugin: %s%s", standing.reason, hint)
        if standing.changed or not standing.ready:
            self.results["SUCCESS" if standing.ready else standing.failure] += 1
        self.standing = standing


def _read(path: Path) -> str:
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: can't be read: {error}", hint="it is filled when the Secret of the plugin's account has come"
        ) from None
    if not found:
        raise ConfigError(f"{path}: is empty", hint="it is filled when the Secret of the plugin's account has come")
    return found + "\n" * path.name.endswith(".crt")
