"""Networks as their users keep them: tensors in files, and what each of their axes counts."""

from converters.stored.network import Change, StoredNetwork, open_network, read_metadata
from converters.stored.specs import load_spec, mlp_spec

__all__ = ["Change", "StoredNetwork", "load_spec", "mlp_spec", "open_network", "read_metadata"]
