"""Sandboxes with a kernel of their own, whose traffic never meets the rules of a namespace: gVisor and Kata.

Both have a namespace on the node that looks like any other pod's. gVisor takes packets straight from its interface by
packet sockets; Kata hands them to a virtual machine by traffic control. Rules of nftables see neither.

Sources: gVisor runsc/sandbox and runsc/boot (argv[0] of the sandbox and of its gofer), Kata Containers src/runtime
(hypervisors, virtiofsd, nydusd, the shim).
"""

import re

from agent.sources.kubernetes.sandboxes.sandbox import Unfit, Why

_PROGRAMS = (
    (Why.GVISOR, re.compile(r"runsc(?:-.*)?")),
    (
        Why.KATA,
        re.compile(
            r"qemu-system-.*|qemu-kvm.*|cloud-hypervisor.*|firecracker|stratovirt|virtiofsd|nydusd|jailer"
            r"|containerd-shim-kata.*|kata-.*"
        ),
    ),
)
_CLASSES = (
    (Why.GVISOR, re.compile(r"(?:.*[-.])?(?:gvisor|runsc)(?:[-.].*)?")),
    (Why.KATA, re.compile(r"(?:.*[-.])?kata(?:[-.].*)?")),
)
_SAID = {
    Why.GVISOR: ("a gVisor sandbox", "gVisor has a network stack of its own, which takes packets before any rule does"),
    Why.KATA: ("a Kata virtual machine", "packets go to the machine's own kernel, where Weir's rules are not"),
}


def foreign_runtime(name: str) -> Why | None:
    """Return which sandbox the name of a RuntimeClass, or of its handler, means; None for the usual ones.

    Only a name: a cluster may call them otherwise. Where it does, the processes say it (`find`).
    """
    return _which(_CLASSES, name.lower())


def foreign_program(names: frozenset[str]) -> Why | None:
    """Return which sandbox a process belongs to, by the names of its program (comm, argv[0], its file)."""
    return next((found for name in sorted(names) if (found := _which(_PROGRAMS, name))), None)


def unfit(uid: str, why: Why, seen: str, *, proven: bool = True) -> Unfit:
    """Return the refusal of a sandbox; `seen` is by what it was told, such as ``runtimeClassName gvisor``.

    A process of the pod may go by a hypervisor's name, so names alone prove nothing of a pod that asks for no runtime.
    """
    what, reason = _SAID[why]
    run = "runs" if proven else "seems to run"
    hint = "run the pod with the node's usual runtime, or label it istio.io/dataplane-mode=none"
    again = (
        "it is looked at again; where the node's usual runtime is that one, label the pod istio.io/dataplane-mode=none"
    )
    return Unfit(
        uid=uid,
        why=why,
        reason=f"the pod {run} in {what} ({seen}): {reason}",
        hint=hint if proven else again,
        proven=proven,
    )


def _which(table: tuple[tuple[Why, re.Pattern[str]], ...], name: str) -> Why | None:
    return next((why for why, pattern in table if pattern.fullmatch(name)), None)
