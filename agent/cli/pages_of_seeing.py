"""The pages of the commands that show what the kernel does."""

from agent.cli.page import ERROR, MANIFESTS, POD, TARGETS, Page

SEEING = {
    "explain": Page(
        short="Say whether a target is captured, why not, and what mends it",
        targets={**TARGETS, **POD, "-f MANIFESTS": MANIFESTS},
        terms={
            "Packets": {
                "out|in": "sent from the namespace, or arriving there",
                "tcp|udp|icmp": "the protocol; ICMP has no ports",
                "[SOURCE[:PORT] to]": "whom it comes from; left out, an address that the kernel would choose",
                "DESTINATION:PORT": "where it goes; an address of IPv6 in brackets",
                "new, established, ...": "its connection's state; of an established one the tracked entry is looked up",
                "mark= connmark=": "the packet mark and the connection mark, 0x539 say",
                "uid= gid= dev= reply": "who sends it, the interface it comes in by, that it is an answer",
            }
        },
        examples={
            "weir explain web": "is web captured, and if not, why?",
            "weir explain --netns pid:4711 --output json": "the namespace of a process, for a program",
            "weir explain pod/shop/web-0": "a pod: the label or selector that decided, its namespace, its rules",
            "weir explain web --packet 'out tcp 10.0.0.7:443'": "every rule that such a packet meets",
            "weir explain -f manifests/ deployment/shop/web": "would its pods be captured, and what decides?",
        },
        codes={"0": "captured (or would be)", "1": "not, or not wholly", "2": ERROR},
        document='{"targets": [{"target", "netns", "captured", "answer", "topics": [{"topic", "standing": "ok", "not",'
        ' "doubt" or "note", "said", "more", "cause", "mend", "command", "facts"}, ...], "mend", "command"}, ...]}\n'
        'With --packet: {"targets": [{"target", "netns", "asked", "packet", "end": "captured", "delivered", "direct",'
        ' "forwarded", "refused", "dropped", "no route" or "unknown", "said", "steps": [{"hook", "table", "chain",'
        ' "line", "handle", "slug", "text", "did", "known"}, ...], "arrives", "mark", "connection_mark", "notes",'
        ' "unread"}, ...]}\n'
        'Of manifests: {"workloads": [{"workload", "captured", "state", "decided", "notes", "file", "line"}, ...],'
        ' "errors"}',
    ),
    "top": Page(
        short="Watch targets live: connections, rates, drift",
        terms={
            "Keys": {
                "t s c d n p i f a o": "sort by target, state, connections, direct, new, packets, invalid, drifts,"
                " applies, outside",
                "r": "the other way round",
                "arrows, j k, space b, g G": "scroll by a line, by a page, to the ends",
                "q, Ctrl-C": "quit",
            }
        },
        examples={
            "weir top": "every target of the running daemon, those that aren't captured first",
            "weir top --sort new": "who opens the most connections",
            "weir top --once --interval 5": "one frame with rates over five seconds, for a pipe or a report",
            "weir top --output json": "a document for each frame, a line each",
        },
        codes={
            "0": "quit, or one frame shown",
            "2": f"{ERROR}; no daemon is running",
            "130": "Ctrl-C",
            "143": "SIGTERM",
        },
        document='A line for each frame: {"at": unix seconds, "seconds": since the reading before, "targets":'
        ' [{"target", "netns", "state", "captured", "connections", "direct", "new_per_second", "packets_per_second",'
        ' "invalid", "drifts", "applies", "outside"}, ...]}; null is what isn\'t known',
    ),
}
