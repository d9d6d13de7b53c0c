"""What a node's daemons read: containerd's, the kubelet's and kube-proxy's settings, and the network's plugins."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["CONFLIST", "PAUSE", "STATIC", "files"]

CONFLIST = Path("/etc/cni/net.d/10-pods.conflist")
STATIC = Path("/etc/kubernetes/manifests")
PAUSE = "localhost/pause:1"
_CONTAINERD = f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def files(told: Mapping[str, Any]) -> dict[Path, str]:
    """Return the files of one node by their path; `told` are its settings."""
    return {
        CONFLIST: json.dumps(_network(told), indent=2),
        Path("/etc/containerd/config.toml"): _CONTAINERD,
        Path("/etc/kubernetes/kubelet.yaml"): json.dumps(_kubelet(told)),
        Path("/etc/kubernetes/kube-proxy.yaml"): json.dumps(_kube_proxy(told)),
        Path("/etc/kubernetes/resolv.conf"): "nameserver 10.96.0.10\n",
    }


def _network(told: Mapping[str, Any]) -> dict[str, Any]:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": "/var/lib/cni/ipam",
            "ranges": [[{"subnet": each}] for each in told["pods"]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}


def _kubelet(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        # There may be no right to lower it.
        "oomScoreAdj": 0,
        "enforceNodeAllocatable": [],
        "address": "::",
        "tlsCertFile": told["certificate"],
        "tlsPrivateKeyFile": told["key"],
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": told["authority"]},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/kubernetes/resolv.conf",
        "evictionHard": {"memory.available": "10Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "5s",
        "staticPodPath": str(STATIC),
        "fileCheckFrequency": "2s",
        # What the tests' proxy tells is read from there.
        "containerLogMaxSize": "100Mi",
    }


def _kube_proxy(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": ",".join(told["cluster"]),
        "clientConnection": {"kubeconfig": told["proxy_kubeconfig"]},
        # The machine's limits are everybody's.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
