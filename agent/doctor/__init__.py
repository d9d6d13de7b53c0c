"""Checks a node and targets, and says of everything found what it is, why it matters and what to do.

It changes nothing. Each module has the facts of one subject, the one place where they are read, and functions that
judge them and touch nothing; `examine` puts them together.
"""

from agent.doctor.examine import Node, examine, of_target
from agent.doctor.findings import Diagnosis, Finding, Level

__all__ = ["Diagnosis", "Finding", "Level", "Node", "examine", "of_target"]
