"""The page of `weir trace`."""

from agent.cli.page import ERROR, ONE_TARGET, POD, Page

TRACING = {
    "trace": Page(
        short="Show live connections and the rules each meets",
        targets={**ONE_TARGET, "TARGET": "a name from the file, before a filter; alone it may be left out", **POD},
        terms={
            "Filter": {
                "in, out": "connections that arrive, or that the namespace opens; both where neither is said",
                "ipv4, ipv6": "of one family",
                "tcp, udp, icmp, icmpv6": "of one protocol; all where none is said",
                "10.0.0.0/8:443": "with whom, and to which port: a NETWORK, :PORTS or both, [fd00::/8]:443 for IPv6",
                "host 10.0.0.7": "from or to an address",
            }
        },
        examples={
            "weir trace web": "what opens in the target web for ten seconds, or arrives there",
            "weir trace web out tcp 10.0.0.0/8:443": "where its connections to 10.0.0.0/8, port 443, go",
            "weir trace --netns web in :8080 --count 1": "the next connection to port 8080, then end",
            "weir trace pod/shop/web-0 udp :53 --for 60": "a pod's queries for a minute",
            "weir trace web --output json": "a line of JSON for each connection, the summary last",
            "weir trace web --time": "how long packets are in each of Weir's chains, over 0.2 s",
        },
        codes={
            "0": "the time is over, or so many were shown",
            "2": f"{ERROR}; the kernel can't do it",
            "130": "Ctrl-C, with the summary",
        },
        document='A line each: {"connection": {"path", "fate", "mark", "legs": [{"way", "interface", "packet":'
        ' {"protocol", "source", "source_port", "destination", "destination_port"} or null, "became", "met": [{"table",'
        ' "chain",'
        ' "handle", "rule", "ours", "verdict", "mark"}, ...]}, ...]}}; the last {"summary": {"connections", "packets",'
        ' "paths": {PATH: NUMBER}, "lost", "seconds"}}.\n'
        'With --time one line: {"timing": {"chains": [{"chain", "hook", "priority", "packets", "stopped", "unmeasured",'
        ' "nanoseconds", "times": {"mean", "p50", "p99"} (nanoseconds) or null, "beside": [NAME, ...], "share"}, ...],'
        ' "empty": {HOOK: {"mean", "p50", "p99"} or null}, "seconds", "changed"}}',
    ),
}
