"""Traffic for the test world: servers, clients, load, long streams and a wire tap, under one name."""

from netns_tests.clients import Exchange, connect, dns_ask, exchange, http_get, open_socket, udp_ask
from netns_tests.hammer import Attempt, Hammer, Hammered, hammer
from netns_tests.servers import DnsServer, EchoServer, HttpServer, UdpEchoServer
from netns_tests.stream import Stream
from netns_tests.tap import Segment, Tap

__all__ = [
    "Attempt",
    "DnsServer",
    "EchoServer",
    "Exchange",
    "Hammer",
    "Hammered",
    "HttpServer",
    "Segment",
    "Stream",
    "Tap",
    "UdpEchoServer",
    "connect",
    "dns_ask",
    "exchange",
    "hammer",
    "http_get",
    "open_socket",
    "udp_ask",
]
