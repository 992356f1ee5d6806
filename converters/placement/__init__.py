"""Any traced network as a graph: its symmetry derived, its layers placed."""

from converters.chains.program import spec_spaces
from converters.placement.convert import to_architecture, traced_to_graph
from converters.verification import GraphVerification, verify

__all__ = ["GraphVerification", "spec_spaces", "to_architecture", "traced_to_graph", "verify"]
