"""libnftables in a namespace, without any code of the agent."""

import json

import nftables

from netns_tests.namespace import Namespace

__all__ = ["Nft"]


class Nft:
    """A libnftables context. It speaks to the namespace in which it was made, whichever thread uses it."""

    def __init__(self, namespace: Namespace) -> None:
        self._context = namespace.run(nftables.Nftables)

    def load(self, text: str) -> None:
        """Carry out commands in one transaction."""
        self._context.set_json_output(False)
        code, _, error = self._context.cmd(text)
        if code:
            raise RuntimeError(f"{error}\n{text}")

    def load_json(self, text: str) -> None:
        """Carry out commands in JSON in one transaction."""
        code, _, error = self._context.json_cmd(json.loads(text))
        if code:
            raise RuntimeError(f"{error}\n{text}")

    def list(self) -> str:
        """Return everything that is there, as JSON."""
        self._context.set_json_output(True)
        code, output, error = self._context.cmd("list ruleset")
        if code:
            raise RuntimeError(error)
        return str(output)

    def list_text(self) -> str:
        """Return everything that is there, as text."""
        self._context.set_json_output(False)
        code, output, error = self._context.cmd("list ruleset")
        if code:
            raise RuntimeError(error)
        return str(output)
