"""Conntrack entries of a network namespace: list, make, mark and delete them over ctnetlink.

``flow`` holds the values, ``codec`` turns them into netlink attributes and back, ``table`` talks to the kernel.
``stats`` counts without listing, ``entries`` reads listings and events by the ten thousand, ``events`` hears of new
entries and of those that have ended.
"""

from agent.kernel.conntrack.entries import Entry, read_entry
from agent.kernel.conntrack.flow import Count, Flow, FlowTuple, Status
from agent.kernel.conntrack.stats import Stats, read_stats
from agent.kernel.conntrack.table import Conntrack

__all__ = [
    "Conntrack",
    "Count",
    "Entry",
    "Flow",
    "FlowTuple",
    "Stats",
    "Status",
    "read_entry",
    "read_stats",
]
