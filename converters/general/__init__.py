"""Any traced network as a graph: its symmetry derived, its layers placed."""

from converters.general.chains import spec_spaces
from converters.general.convert import to_architecture, traced_to_graph
from converters.general.proof import GraphVerification, verify

__all__ = ["GraphVerification", "spec_spaces", "to_architecture", "traced_to_graph", "verify"]
