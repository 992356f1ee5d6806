"""Any traced network as a graph: its symmetry derived, its layers placed."""
