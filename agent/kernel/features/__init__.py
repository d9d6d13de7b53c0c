"""What Weir needs of a kernel: each feature is declared once, and proven at start by being used.

``declared`` is the table of features, ``proofs`` uses each of them, ``probing`` runs the proofs in a throw-away
namespace.
"""

from agent.kernel.features.declared import FEATURES, OWNED_TABLES, PERSISTENT_TABLES, Feature, markdown
from agent.kernel.features.probing import Edge, Finding, ThisKernel, missing, missing_needed, probe

__all__ = [
    "FEATURES",
    "OWNED_TABLES",
    "PERSISTENT_TABLES",
    "Edge",
    "Feature",
    "Finding",
    "ThisKernel",
    "markdown",
    "missing",
    "missing_needed",
    "probe",
]
