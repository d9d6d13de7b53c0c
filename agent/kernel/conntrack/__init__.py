"""Conntrack entries of a network namespace: list, make, mark and delete them over ctnetlink.

``flow`` holds the values, ``codec`` turns them into netlink attributes and back, ``table`` talks to the kernel.
"""

from agent.kernel.conntrack.flow import Count, Flow, FlowTuple, Status
from agent.kernel.conntrack.table import Conntrack

__all__ = ["Conntrack", "Count", "Flow", "FlowTuple", "Status"]
