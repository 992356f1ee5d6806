"""Networks to neural graphs, and back."""

from converters.activations import OPERATORS, Sine
from converters.chains.chain import mlp_to_graph, stacked_to_graphs
from converters.chains.program import spec_spaces
from converters.files import load_graph, load_state_dict, save_graph
from converters.from_modules import to_architecture, to_graph
from converters.networkx_graphs import from_networkx, to_networkx
from converters.onnx_files import load_onnx
from converters.populations import export_checkpoints, export_huggingface, import_zoo
from converters.state_dicts import state_dict_to_graph, to_state_dict
from converters.stored import StoredNetwork, load_spec, mlp_spec, open_network, read_metadata
from converters.symmetry import canonicalise, fold_norms, permutation_spec, symmetry_spec
from converters.to_modules import AffineChain, to_module
from converters.verification import Verification, verify

__all__ = [
    "OPERATORS",
    "AffineChain",
    "Sine",
    "StoredNetwork",
    "Verification",
    "canonicalise",
    "export_checkpoints",
    "export_huggingface",
    "fold_norms",
    "from_networkx",
    "import_zoo",
    "load_graph",
    "load_onnx",
    "load_spec",
    "load_state_dict",
    "mlp_spec",
    "mlp_to_graph",
    "open_network",
    "permutation_spec",
    "read_metadata",
    "save_graph",
    "spec_spaces",
    "stacked_to_graphs",
    "state_dict_to_graph",
    "symmetry_spec",
    "to_architecture",
    "to_graph",
    "to_module",
    "to_networkx",
    "to_state_dict",
    "verify",
]
