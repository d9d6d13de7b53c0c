"""What a command is told of targets that it can't have otherwise."""

import shlex

from agent.daemon.slot import Slot
from agent.targets import Outcome, State


def leaving(slot: Slot) -> Outcome:
    """Return why a target can't be captured that the file has no longer."""
    return Outcome(
        target=slot.target,
        state=State.FAILED,
        reason="the daemon is releasing it, since its file has it no longer",
        hint=f"add it to the daemon's file, or wait: `weir wait --for absent --netns {shlex.quote(slot.target.netns)}`",
    )


def decided_elsewhere(slot: Slot) -> Outcome:
    """Return why a pod's target is no matter of commands."""
    return Outcome(
        target=slot.target,
        state=State.FAILED,
        reason="the labels of the pod and of its namespace say whether it is captured",
        hint="label it: `kubectl label pod -n NAMESPACE NAME istio.io/dataplane-mode=ambient` captures, =none releases",
    )
