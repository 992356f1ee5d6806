"""Any traced network as a graph: its symmetry derived, its layers placed."""

from converters.general.convert import to_architecture, traced_to_graph

__all__ = ["to_architecture", "traced_to_graph"]
