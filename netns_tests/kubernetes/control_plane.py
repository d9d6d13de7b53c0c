"""The API as nodes see it: its server on an address that they reach, with the controllers and the scheduler."""

from pathlib import Path

from netns_tests.kubernetes.api_server import ApiServer

__all__ = ["ADDRESS", "ControlPlane"]

ADDRESS = "10.99.0.1"
_SERVICES = "10.96.0.0/16,fd00:10:96::/112"
_OTHERWISE = ("--disable-admission-plugins", "--bind-address", "--service-cluster-ip-range")  # than without nodes
_KINDS = (("certificate", "crt"), ("key", "key"))


class ControlPlane(ApiServer):
    """The API as nodes see it, with controllers and the scheduler."""

    def __init__(self) -> None:
        super().__init__()
        self.port = self._ports[0]
        self.url = f"https://{ADDRESS}:{self.port}"

    def start(self) -> None:
        """Start the API server, and what works by it."""
        super().start()
        folder = self.directory
        common = ("--leader-elect=false", "--bind-address=127.0.0.1", f"--cert-dir={folder}")
        controllers = self.user("kube-controller-manager", "/CN=system:kube-controller-manager")
        self._run(
            "kube-controller-manager",
            f"--kubeconfig={controllers}",
            f"--service-account-private-key-file={folder}/sa.key",
            f"--root-ca-file={self.authority}",
            "--use-service-account-credentials=true",
            *common,
        )
        scheduler = self.user("kube-scheduler", "/CN=system:kube-scheduler")
        self._run("kube-scheduler", f"--kubeconfig={scheduler}", *common)

    def user(self, name: str, subject: str) -> Path:
        """Return a kubeconfig for somebody with a certificate."""
        self._certificate(name, "client", subject)
        files = {f"client-{kind}": str(self.directory / f"{name}.{end}") for kind, end in _KINDS}
        return self.kubeconfig_of(files, name)

    def server(self, name: str, *addresses: str) -> tuple[Path, Path]:
        """Return the certificate and the key of a server."""
        names = ",".join([f"DNS:{name}", *(f"IP:{each}" for each in addresses)])
        self._certificate(f"{name}-server", "server", f"/CN={name}", names)
        return self.directory / f"{name}-server.crt", self.directory / f"{name}-server.key"

    def _certificate(self, name: str, kind: str, subject: str, names: str = "") -> None:
        also = f",IP:{ADDRESS},IP:10.96.0.1,DNS:kubernetes.default.svc" if name == "server" else ""
        super()._certificate(name, kind, subject, names + also)

    def _run(self, name: str, *arguments: str) -> None:
        if name != "kube-apiserver":
            super()._run(name, *arguments)
            return
        folder = self.directory
        super()._run(
            name,
            *(each for each in arguments if not each.startswith(_OTHERWISE)),
            "--bind-address=0.0.0.0",
            f"--advertise-address={ADDRESS}",
            f"--service-cluster-ip-range={_SERVICES}",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={self.authority}",
            f"--kubelet-client-certificate={folder}/admin.crt",
            f"--kubelet-client-key={folder}/admin.key",
        )
