"""One pod's network namespace, looked at: that it is the pod's own, and later that it still is the same.

`look` and `is_there` enter namespaces, so they are called in worker threads.
"""

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum

from agent.errors import NodeNamespace, WeirError
from agent.kernel.addresses import Rtnetlink, addresses_of
from agent.kernel.netns import Identity, Netns, OpenNetns
from rulesets.vocabulary import Address

_MOST_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A pod's namespace. `netns` is a path or ``pid:N``, as `Netns` opens it.

    `cookie` is the kernel's number for the namespace, 0 before Linux 5.14: an inode is used again, a cookie isn't.
    `container` is the runtime's id of the sandbox, empty where nobody knows it. `addresses` are those of the pod's that
    the namespace has, none where nobody knew any, and `interface` is where the first of them is.
    """

    uid: str
    netns: str
    identity: Identity
    cookie: int = 0
    container: str = ""
    interface: str = ""
    addresses: tuple[Address, ...] = ()

    def __str__(self) -> str:
        return f"sandbox of pod {self.uid} (netns {self.netns}, {self.identity})"


class Why(StrEnum):
    """Why there is no namespace to capture."""

    HOST_NETWORK = "host-network"
    GVISOR = "gvisor"
    KATA = "kata"
    NO_ADDRESS = "no-address"  # the API knows none yet, and by it a namespace is told from others
    NOT_OWNED = "not-owned"  # there are namespaces, and none has an address of the pod's
    NOT_FOUND = "not-found"
    NOT_VISIBLE = "not-visible"  # this process may not look


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """A pod without a namespace that can be captured: why, in words too, and what to do about it.

    Not `proven`: that is what the pod's own processes say, and they say whatever they like.
    """

    uid: str
    why: Why
    reason: str
    hint: str = ""
    proven: bool = True

    @property
    def lasting(self) -> bool:
        """Whether looking again is of no use for as long as this pod lives."""
        return self.proven and self.why in (Why.HOST_NETWORK, Why.GVISOR, Why.KATA)


def look(
    uid: str, netns: str, *, addresses: Collection[Address] = (), container: str = "", interface: str = ""
) -> Sandbox | Unfit:
    """Return what a path holds that somebody says is a pod's: the container runtime, or an earlier life of the agent.

    Without `addresses` nobody knows any yet, and only the node's own namespace is refused; `interface` is kept then.
    0.1 ms. Raises `NamespaceMissing`, `NotANamespace` or `KernelError`.
    """
    try:
        opened = OpenNetns(Netns(netns))
    except NodeNamespace as error:
        return host_network(uid, str(error))
    with closing(opened), opened.entered(), Rtnetlink() as rtnetlink:
        cookie = rtnetlink.cookie
        there = addresses_of(rtnetlink) if addresses else {}
    owned = tuple(each for each in addresses if each in there)
    if addresses and not owned:
        wanted = _listed(addresses)
        return not_owned(uid, f"netns = {netns!r}: doesn't have the pod's address {wanted}, but {_listed(there)}")
    return Sandbox(
        uid=uid,
        netns=netns,
        identity=opened.identity,
        cookie=cookie,
        container=container,
        interface=there[owned[0]] if owned else interface,
        addresses=owned,
    )


def is_there(sandbox: Sandbox) -> bool:
    """Tell whether a path still leads to the namespace that it led to, and not to another with the same inode.

    By the cookie; on a kernel that has none, by the pod's addresses. Never raises.
    """
    try:
        found = look(sandbox.uid, sandbox.netns, addresses=() if sandbox.cookie else sandbox.addresses)
    except WeirError:
        return False
    return isinstance(found, Sandbox) and (found.identity, found.cookie) == (sandbox.identity, sandbox.cookie)


def host_network(uid: str, reason: str) -> Unfit:
    """Return the refusal of what is the node's own."""
    return Unfit(
        uid=uid,
        why=Why.HOST_NETWORK,
        reason=reason,
        hint="pods of the host's network are never captured: label it istio.io/dataplane-mode=none, or give it its own",
    )


def not_owned(uid: str, reason: str) -> Unfit:
    """Return the refusal of what has none of the pod's addresses."""
    hint = "it is another sandbox, or its network isn't set up; it is looked at again"
    return Unfit(uid=uid, why=Why.NOT_OWNED, reason=reason, hint=hint)


def _listed(addresses: Collection[Address]) -> str:
    some = ", ".join(map(str, list(addresses)[:_MOST_SHOWN])) or "none"
    return f"{some} and {len(addresses) - _MOST_SHOWN} more" if len(addresses) > _MOST_SHOWN else some
