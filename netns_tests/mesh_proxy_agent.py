"""The server of ZDS as a process of its own, for tests that kill it or hand it a listening socket."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from agent.mesh.listener import Listener
from agent.mesh.server import Mesh
from agent.mesh.wire import Workload


async def serve(path: Path, pods: Sequence[tuple[Workload, BinaryIO]], *, inherit: bool) -> None:
    """Serve pods, each in the namespace of an open file, until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def changed(uid: str) -> None:
        if mesh.state().acknowledged == len(pods):
            print("acknowledged", flush=True)

    mesh = Mesh(changed=changed)
    listener = Listener.inherited(path) if inherit else Listener.at(path)
    assert listener is not None, "no socket was handed over"
    mesh.listen(listener)
    print("listening", flush=True)
    mesh.complete(pods)
    await stop.wait()
    mesh.close()


def main(arguments: list[str]) -> None:
    """Run until the test goes or says so."""
    parser = argparse.ArgumentParser(prog="python -m netns_tests.mesh_proxy_agent")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--inherit", action="store_true")
    parser.add_argument("--pod", action="append", default=[], metavar="UID=PATH")
    options = parser.parse_args(arguments)
    with ExitStack() as files:
        pods = []
        for each in options.pod:
            uid, netns = each.split("=", 1)
            workload = Workload(uid=uid, namespace="shop", name=f"web-{uid}", service_account="default")
            pods.append((workload, files.enter_context(Path(netns).open("rb"))))
        asyncio.run(serve(options.socket, pods, inherit=options.inherit))


if __name__ == "__main__":
    main(sys.argv[1:])
