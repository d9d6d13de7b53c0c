"""The annotations' names as tests write them, and the error of those that are refused."""

import pytest

from agent.sources.kubernetes.annotations import asked
from rulesets.capture import Capture
from rulesets.settings import CaptureError

T = "traffic.sidecar.istio.io/"
BYPASS, DNS, VIRTUAL = (
    "ambient.istio.io/bypass-inbound-capture",
    "ambient.istio.io/dns-capture",
    "istio.io/reroute-virtual-interfaces",
)


def refused(annotations: dict[str, str], defaults: Capture | None = None) -> CaptureError:
    with pytest.raises(CaptureError) as error:
        asked(annotations, defaults)
    return error.value
