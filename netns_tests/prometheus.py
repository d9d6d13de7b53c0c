"""A real Prometheus in a namespace of its own, which scrapes agents by their sockets and evaluates the project's rules.

It scrapes several times a second, and what the alerts wait for is cut to nothing: what they mean stays as it is.
"""

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.world import eventually
from tests.packages import ROOT

__all__ = ["Prometheus", "hurried"]

SECONDS = slow(30.0)
PORT = 9090
_CONFIGURATION = """
global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}}
rule_files: [rules.yaml, alerts.yaml]
scrape_configs:
  - job_name: weir
    static_configs:
{targets}"""


def hurried(text: str) -> str:
    """Return rules that wait for nothing, and look back seconds rather than an hour."""
    text = re.sub(r"\n +for: \w+", "", text)
    text = re.sub(r"offset \d+[mh]", "offset 5s", text)
    return text.replace("> 60", "> 1")


class Prometheus:
    """One that scrapes agents by their unix sockets. Use it in a `with` block."""

    def __init__(self, folder: Path, agents: Mapping[str, Path], replaced: Mapping[str, str] | None = None) -> None:
        """`agents` are the HTTP sockets, by instance; `replaced` is text of the rules and what stands there instead."""
        self._folder, self._agents, self._replaced = folder, agents, replaced or {}
        self._stack = ExitStack()
        self._namespace: Namespace

    def __enter__(self) -> Self:
        """Start it; return when it has evaluated the rules once."""
        with ExitStack() as stack:
            self._namespace = stack.enter_context(Namespace.create("prom"))
            self._namespace.ip("link set lo up")
            targets = []
            for number, (instance, path) in enumerate(self._agents.items(), PORT + 1):
                stack.enter_context(_Relay(self._namespace, number, path))
                targets.append(f"      - {{targets: ['127.0.0.1:{number}'], labels: {{instance: {instance}}}}}\n")
            self._write("".join(targets))
            log = stack.enter_context((self._folder / "prometheus.log").open("wb"))
            process = self._namespace.spawn(
                [
                    *("prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data"),
                    f"--web.listen-address=127.0.0.1:{PORT}",
                ],
                stdout=log.fileno(),
                stderr=log.fileno(),
                cwd=self._folder,
            )
            stack.callback(_end, process)
            self._stack = stack.pop_all()
        try:
            eventually(lambda: self.query("up") and self._groups(), "Prometheus has begun", SECONDS)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End it, and whatever it has kept."""
        self._stack.close()

    def _write(self, targets: str) -> None:
        (self._folder / "prometheus.yaml").write_text(_CONFIGURATION.format(targets=targets))
        for name in ("rules.yaml", "alerts.yaml"):
            text = hurried((ROOT / "deploy/prometheus" / name).read_text())
            for old, new in self._replaced.items():
                text = text.replace(old, new)
            (self._folder / name).write_text(text)

    def _get(self, where: str) -> Any:
        """Return the data of an answer; None while there is none."""

        def asked() -> bytes:
            with socket.create_connection(("127.0.0.1", PORT), SECONDS) as client:
                client.sendall(f"GET {where} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                return b"".join(iter(lambda: client.recv(65536), b""))

        try:
            head, _, body = self._namespace.run(asked).partition(b"\r\n\r\n")
        except OSError:
            return None
        return json.loads(body)["data"] if b" 200 " in head.split(b"\r\n", 1)[0] else None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression comes to: metric and value of each series."""
        found = self._get(f"/api/v1/query?query={quote(expression)}")
        return list(found["result"]) if found else []

    def _groups(self) -> bool:
        found = self._get("/api/v1/rules")
        rules = [rule for group in (found or {}).get("groups", ()) for rule in group["rules"]]
        return bool(rules) and all(rule["health"] == "ok" for rule in rules)

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of the alerts that fire, with their summary."""
        found = self._get("/api/v1/alerts") or {"alerts": ()}
        return [
            {**each["labels"], "summary": each["annotations"]["summary"]}
            for each in found["alerts"]
            if each["state"] == "firing"
        ]

    def fires(self, alert: str, **labels: str) -> dict[str, str]:
        """Wait until an alert fires with these labels, and return all that it says."""
        found: list[dict[str, str]] = []

        def seen() -> bool:
            found[:] = [each for each in self.firing() if each["alertname"] == alert and labels.items() <= each.items()]
            return bool(found)

        try:
            eventually(seen, f"{alert} fires with {labels}", SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}; firing: {self.firing()}") from None
        return found[0]

    def quiet(self, alerts: Iterable[str]) -> None:
        """Wait until none of these alerts fires any more."""
        names = set(alerts)
        eventually(lambda: not names & {each["alertname"] for each in self.firing()}, f"{names} have ended", SECONDS)


class _Relay:
    """Listens on loopback of a namespace, and hands each connection on to a unix socket."""

    def __init__(self, namespace: Namespace, port: int, path: Path) -> None:
        self._path = path
        self._listener = namespace.socket(socket.AF_INET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as agent:
            try:
                agent.connect(str(self._path))
            except OSError:
                return  # nobody is there: Prometheus sees that it is down
            back = threading.Thread(target=_pass_on, args=(agent, client), daemon=True)
            back.start()
            _pass_on(client, agent)
            back.join()


def _pass_on(source: socket.socket, to: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            to.sendall(data)
    except OSError:
        pass
    for each, how in ((to, socket.SHUT_WR), (source, socket.SHUT_RD)):
        try:
            each.shutdown(how)
        except OSError:
            pass


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
