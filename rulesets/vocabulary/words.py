"""Actions in words, for whoever tells what rules do to a packet."""

from typing import assert_never

from rulesets.vocabulary.actions import Dnat, Redirect, Snat
from rulesets.vocabulary.read import DnatTo, Masquerade, Tproxy

Sending = Redirect | Dnat | DnatTo | Snat | Masquerade | Tproxy


def sent(action: Sending) -> str:
    """Return where an action sends a packet, or whence it seems to come then, as a participle."""
    match action:
        case Redirect(port=port):
            return f"redirected to {port}"
        case Dnat(port=port):
            return f"sent to port {port}"
        case DnatTo(address=address, port=port):
            return f"sent to {address}" + ("" if port is None else f", port {port}")
        case Tproxy(port=port):
            return f"handed to port {port}"
        case Snat(address=address):
            return f"made to come from {address}"
        case Masquerade():
            return "made to come from the interface that it leaves by"
        case _:
            assert_never(action)
