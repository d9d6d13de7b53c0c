"""What the chart's hooks do in the cluster, with nothing but Python: it runs in the agent's image, beside the agent.

    release.py uninstall NAMESPACE NAME   delete a DaemonSet, and return when the last of its pods has gone
    release.py ready NAMESPACE NAME       return when each of its pods is ready

Exit codes: 0 done; 1 not within the time (WEIR_HOOK_SECONDS, 240); 2 the API refuses, or isn't to be reached.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import TextIO

ACCOUNT = Path(os.environ.get("SERVICE_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
PAUSE = 0.5  # seconds between two looks
_GONE = 404
# For now only: an API that is starting, is asked too much, or has the object written by somebody else at this moment.
_LATER = frozenset({408, 409, 429, 500, 502, 503, 504})


class Refused(Exception):
    """The API says no, with its own words."""


class Later(Refused):
    """The API says no, and may say something else a moment later."""


def ask(method: str, path: str, body: object = None) -> dict[str, object] | None:
    """Return what the API answers; None where there is no such object.

    Raises `Refused`; and `OSError`, `ValueError` or `HTTPException` where there was no answer, or half of one.
    """
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    request = urllib.request.Request(
        f"https://{f'[{host}]' if ':' in host else host}:{port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
            "Content-Type": "application/json",
        },
    )
    trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust) as answer:  # noqa: S310
            said: dict[str, object] = json.load(answer)
            return said
    except urllib.error.HTTPError as error:
        if error.code == _GONE:
            return None
        kind = Later if error.code in _LATER else Refused
        raise kind(f"{method} {path}: {error.code} {error.read(4096).decode(errors='replace')}") from None


def path_of(namespace: str, name: str) -> str:
    """Return where the API has a DaemonSet."""
    return f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"


def still_there(namespace: str, name: str) -> str:
    """Delete a DaemonSet after its pods; return why that isn't done yet."""
    path = path_of(namespace, name)
    found = ask("GET", path)
    if found is None:
        return ""
    metadata = found["metadata"]
    if isinstance(metadata, dict) and "deletionTimestamp" not in metadata:
        # In the foreground: it is there, marked, for as long as a pod is. So each agent sees that it is to clean up.
        ask("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"})
    return f"{_counted(found, 'currentNumberScheduled')} pods are there still"


def not_ready(namespace: str, name: str) -> str:
    """Return why not each pod of a DaemonSet is ready; empty when they are."""
    found = ask("GET", path_of(namespace, name))
    if found is None:
        return "there is no such DaemonSet"
    wanted, ready = _counted(found, "desiredNumberScheduled"), _counted(found, "numberReady")
    if wanted == 0:
        return "no node is to have a pod of it: see nodeSelector, affinity and tolerations"
    return "" if ready == wanted else f"{ready} of {wanted} nodes have an agent that is ready"


def _counted(found: dict[str, object], what: str) -> int:
    status = found.get("status")
    number = status.get(what, 0) if isinstance(status, dict) else 0
    return number if isinstance(number, int) else 0


def _say(text: str, to: TextIO = sys.stdout) -> None:
    print(text, file=to, flush=True)


TASKS: dict[str, Callable[[str, str], str]] = {"uninstall": still_there, "ready": not_ready}


def main(arguments: list[str]) -> int:
    """Look again until there is nothing left to wait for, and say on the way what it waits for."""
    if len(arguments) != len(("task", "namespace", "name")) or arguments[0] not in TASKS:
        _say(__doc__, sys.stderr)
        return 2
    task, namespace, name = arguments
    end = time.monotonic() + float(os.environ.get("WEIR_HOOK_SECONDS", "240"))
    said = ""
    while True:
        try:
            why = TASKS[task](namespace, name)
        except Later as error:
            why = f"the API can't answer yet: {error}"
        except (Refused, KeyError) as error:
            _say(f"{task}: {error}", sys.stderr)
            return 2
        except (OSError, ValueError, HTTPException) as error:
            why = f"the API isn't to be reached: {error}"
        if not why:
            _say(f"{task}: DaemonSet {namespace}/{name}: done")
            return 0
        if why != said:
            _say(f"{task}: DaemonSet {namespace}/{name}: {why}")
            said = why
        if time.monotonic() > end:
            _say(f"{task}: not within the time: {why}", sys.stderr)
            return 2 if why.startswith("the API") else 1
        time.sleep(PAUSE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
