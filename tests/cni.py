"""The CNI side of a node: the plugin as a runtime starts it, the agent's own server, and what answers like the API."""

import asyncio
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from agent.cni import kubeconfig
from agent.cni.entry import Entry, selectors
from agent.cni.protocol import Answer, Request, Verdict
from agent.cni.server import Places, Served, serve
from tests.packages import ROOT

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
SECONDS = 60.0

# What Istio's chart selects by default.
SELECTORS = selectors(
    [
        {"podSelector": {"matchLabels": {"istio.io/dataplane-mode": "ambient"}}},
        {
            "podSelector": {
                "matchExpressions": [{"key": "istio.io/dataplane-mode", "operator": "NotIn", "values": ["none"]}]
            },
            "namespaceSelector": {"matchLabels": {"istio.io/dataplane-mode": "ambient"}},
        },
    ]
)
AMBIENT = {"istio.io/dataplane-mode": "ambient"}
UID = "a5d2c4f6-0f0e-4a57-9f3c-7b8b9b6a1c11"


@cache
def program() -> Path:
    """Return the plugin, built where it isn't, as ./dev builds it."""
    done = subprocess.run([ROOT / "dev", "build", "plugin"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ROOT / "build/weir-cni"


@dataclass(frozen=True, slots=True)
class Done:
    """How a call of a plugin ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> dict[str, Any]:
        """The error object that it printed."""
        assert self.code != 0, self.out
        error = json.loads(self.out)
        assert isinstance(error, dict)
        return error

    @property
    def result(self) -> Any:
        """What it printed where it succeeded."""
        assert self.code == 0, self.out
        return json.loads(self.out)


def entry(folder: Path, **settings: Any) -> Entry:
    """Return the plugin's entry for an agent whose files are in a folder."""
    given = {
        "selectors": SELECTORS,
        "timeout": 20.0,
        "exempt_pods": ("istio-system/ztunnel-*", "weir-system/weir-*"),
        **settings,
    }
    return Entry(agent_socket=str(folder / "cni.sock"), kubeconfig=str(folder / "cni-kubeconfig"), **given)


def result(version: str) -> dict[str, Any]:
    """Return what a primary network's plugin has made, as that version of CNI says it."""
    address: dict[str, Any] = {"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 0}
    if version < "1":
        address["version"] = "4"
    return {
        "cniVersion": version,
        "interfaces": [{"name": "eth0", "mac": "0a:58:0a:00:00:02", "sandbox": "/run/netns/x"}],
        "ips": [address, {"address": "fd00::2/64", "interface": 0} | ({"version": "6"} if version < "1" else {})],
        "dns": {},
        "of/others": [1.50, "kept"],
    }


@dataclass(frozen=True)
class Runtime:
    """What a container runtime says when it starts a plugin."""

    given: Entry
    version: str = "1.0.0"
    pod: str = "shop/web-0"
    uid: str = UID
    netns: str = "/var/run/netns/cni-1"
    container: str = "c0ffee"
    previous: Mapping[str, Any] | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)  # more of the configuration

    def configuration(self) -> str:
        """What the plugin reads."""
        previous = self.previous if self.previous is not None else result(self.version)
        document = {"cniVersion": self.version, "name": "net", "prevResult": previous, **self.given.document()}
        return json.dumps({**document, **self.beside})

    def call(self, command: str, configuration: str | None = None, **environment: str) -> Done:
        """Start the plugin as a runtime does, and wait for its end."""
        namespace, _, name = self.pod.partition("/")
        arguments = {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": namespace, "K8S_POD_NAME": name}
        arguments |= {"K8S_POD_INFRA_CONTAINER_ID": self.container, "K8S_POD_UID": self.uid}
        given = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
            "CNI_NETNS_OVERRIDE": "1",  # the namespaces of most tests are only names
            **environment,
        }
        done = subprocess.run(
            [program()],
            input=self.configuration() if configuration is None else configuration,
            env=given,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


CAPTURED = Answer(verdict=Verdict.CAPTURED)


class Agent:
    """The agent's server in a thread of its own, answering what it is told to. Use it in a `with` block."""

    def __init__(self, folder: Path, answer: Answer | Callable[[Request], Awaitable[Answer]] = CAPTURED) -> None:
        """Listen in a folder."""
        self.places = Places(socket=folder / "cni.sock", istio=folder / "pluginevent.sock")
        self.deadline = 8.0
        self.answer = answer
        self.asked: list[Request] = []
        self.served: list[Served] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    async def _decide(self, request: Request) -> Answer:
        self.asked.append(request)
        return self.answer if isinstance(self.answer, Answer) else await self.answer(request)

    def __enter__(self) -> Self:
        self._thread.start()
        serving = serve(self._decide, self.places, deadline=self.deadline, count=self.served.append)
        try:
            self._runner = asyncio.run_coroutine_threadsafe(serving, self._loop).result(SECONDS)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(SECONDS)
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()


class Api:
    """HTTPS that answers GET like the Kubernetes API, for pods and namespaces. Use it in a `with` block."""

    token = "ey.bearer.token"  # noqa: S105 - of a server that lives for one test

    def __init__(self, folder: Path) -> None:
        """Keep the certificate and the kubeconfig in a folder."""
        self.folder = folder
        self.objects: dict[str, Any] = {}
        self.paths: list[str] = []
        self.status = 0  # instead of the right one
        self.released = threading.Event()  # each answer waits for it
        self.released.set()

    def pod(self, pod: str, labels: Mapping[str, str] | None = None, **metadata: Any) -> None:
        """Have a pod, and its namespace where there is none yet."""
        namespace, _, name = pod.partition("/")
        document = {"name": name, "uid": UID, "labels": dict(labels or {}), "managedFields": [{}], **metadata}
        self.objects[f"/api/v1/namespaces/{namespace}/pods/{name}"] = {"kind": "Pod", "metadata": document}
        if f"/api/v1/namespaces/{namespace}" not in self.objects:
            self.namespace(namespace)

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Have a namespace."""
        document = {"name": name, "labels": dict(labels or {})}
        self.objects[f"/api/v1/namespaces/{name}"] = {"kind": "Namespace", "metadata": document}

    def __enter__(self) -> Self:
        key, certificate = self.folder / "key.pem", self.folder / "certificate.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=api"
        names = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate))
        subprocess.run([*command.split(), *names], check=True, capture_output=True)
        api = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.paths.append(self.path)
                api.released.wait(SECONDS)
                allowed = self.headers["Authorization"] == f"Bearer {api.token}"
                found = api.objects.get(self.path)
                status = api.status or (401 if not allowed else 404 if found is None else 200)
                body = json.dumps(found if status == 200 else {"kind": "Status", "code": status}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_request(self, *_: object) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.write()
        return self

    def write(self, **other: str) -> None:
        """Write the kubeconfig, with what is given instead of what is right."""
        given = {
            "server": f"https://127.0.0.1:{self._server.server_address[1]}",
            "authority": (self.folder / "certificate.pem").read_text(),
            "token": self.token,
        }
        kubeconfig.write(self.folder, kubeconfig.Credentials(**{**given, **other}))

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def unused(folder: Path) -> Path:
    """Return a folder for an agent's files, short enough for a socket's path."""
    made = folder / "run"
    made.mkdir(mode=0o700)
    assert len(os.fsencode(made / "pluginevent.sock")) < 108
    return made
