"""A real kube-apiserver and its etcd on loopback: stopped and started, compacted, asked."""

import base64
import contextlib
import fcntl
import json
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from netns_tests.kubernetes.programs import program
from netns_tests.patience import slow
from netns_tests.world import eventually

__all__ = ["ApiServer", "Refused"]


class Refused(Exception):
    """What the API said no to: `status`, and its words."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status


_OPENSSL = """
[req]
distinguished_name = dn
prompt = no
[dn]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
"""


class ApiServer:
    """Use it in a `with` block; at its end both processes are killed, and their folder goes."""

    def __init__(self) -> None:
        _sweep()
        self.directory = Path(tempfile.mkdtemp(prefix="weir-api-"))
        self._alive = (self.directory / "alive").open("w")
        fcntl.flock(self._alive, fcntl.LOCK_EX)
        self._ports = [_free_port() for _ in range(3)]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.url = f"https://127.0.0.1:{self._ports[0]}"
        self.authority = self.directory / "ca.crt"
        self.kubeconfig = self.directory / "admin.kubeconfig"

    def __enter__(self) -> Self:
        """Start both."""
        try:
            self._certificates()
            self._start_etcd()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End both."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._alive.close()

    def start(self) -> None:
        """Start the API server, on the same port as before, and wait until it is ready."""
        folder = self.directory
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._ports[1]}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._ports[0]}",
            f"--cert-dir={folder}",
            f"--tls-cert-file={folder}/server.crt",
            f"--tls-private-key-file={folder}/server.key",
            f"--client-ca-file={self.authority}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder}/sa.key",
            f"--service-account-signing-key-file={folder}/sa.key",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--disable-admission-plugins=ServiceAccount",
        )
        eventually(self._is_ready, "the API server is ready", slow(90.0))

    def stop(self) -> None:
        """Kill the API server; etcd goes on."""
        process = self._processes.pop("kube-apiserver")
        process.kill()
        process.wait()

    def pause(self) -> None:
        """Have the API server hang: its connections stay, and nothing comes."""
        self._processes["kube-apiserver"].send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        self._processes["kube-apiserver"].send_signal(signal.SIGCONT)

    def compact(self) -> None:
        """Have etcd forget all versions but the newest."""
        found = self._etcd("/v3/kv/range", {"key": base64.b64encode(b"x").decode()})
        self._etcd("/v3/kv/compaction", {"revision": found["header"]["revision"], "physical": True})

    def ask(self, method: str, path: str, body: object = None, *, kind: str = "application/json") -> Any:
        """Ask as the administrator. Raises `Refused`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310
            self.url + path, data=data, method=method, headers={"Content-Type": kind, "Accept": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=30) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode()[:500]) from None

    def patch(self, path: str, body: Mapping[str, object]) -> Any:
        """Merge something into an object, as the administrator."""
        return self.ask("PATCH", path, body, kind="application/merge-patch+json")

    def kubeconfig_of(self, user: Mapping[str, object], name: str) -> Path:
        """Write a kubeconfig with a user's credentials."""
        path = self.directory / f"{name}.kubeconfig"
        document = {
            "current-context": "test",
            "clusters": [
                {"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.authority)}}
            ],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(json.dumps(document))
        return path

    def token(self, namespace: str, account: str, seconds: int = 3600) -> str:
        """Return a token of a service account."""
        request = {"spec": {"expirationSeconds": seconds}}
        found = self.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", request)
        return str(found["status"]["token"])

    @property
    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority)
        context.load_cert_chain(self.directory / "admin.crt", self.directory / "admin.key")
        return context

    def _is_ready(self) -> bool:
        process = self._processes["kube-apiserver"]
        if process.poll() is not None:
            raise AssertionError((self.directory / "kube-apiserver.log").read_text()[-2000:])
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", context=self._context, timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def _etcd(self, path: str, body: Mapping[str, object]) -> Any:
        url = f"http://127.0.0.1:{self._ports[1]}{path}"
        request = urllib.request.Request(url, data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{each}" for each in self._ports[1:])
        self._run(
            "etcd",
            f"--data-dir={self.directory}/etcd",
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )

    def _run(self, name: str, *arguments: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", str(program(name)), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )

    def _certificates(self) -> None:
        folder = self.directory
        (folder / "openssl.cnf").write_text(_OPENSSL)
        self._certificate("ca", "ca", "/CN=test")
        self._certificate("server", "server", "/CN=kube-apiserver", "DNS:localhost,IP:127.0.0.1")
        self._certificate("admin", "client", "/O=system:masters/CN=admin")
        _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sa.key")
        user = {"client-certificate": str(folder / "admin.crt"), "client-key": str(folder / "admin.key")}
        self.kubeconfig_of(user, "admin")

    def _certificate(self, name: str, kind: str, subject: str, names: str = "") -> None:
        signed = [] if kind == "ca" else ["-CA", "ca.crt", "-CAkey", "ca.key"]
        also = ["-addext", f"subjectAltName={names}"] if names else []
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "30"]
        out = ["-keyout", f"{name}.key", "-out", f"{name}.crt"]
        _openssl(
            self.directory, "req", "-x509", *curve, "-config", "openssl.cnf", *signed, "-extensions", kind,
            "-subj", subject, *also, *out,
        )  # fmt: skip


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def _sweep() -> None:
    """Delete what runs that were killed have left; their processes ended with them."""
    for each in Path(tempfile.gettempdir()).glob("weir-api-*/alive"):
        with contextlib.suppress(OSError), each.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # that of a run which goes on is held
            shutil.rmtree(each.parent, ignore_errors=True)


def _free_port() -> int:
    """Return a port below those that the kernel gives to clients: it has to be free again after each stop."""
    while True:
        port = random.randint(12_000, 32_000)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
