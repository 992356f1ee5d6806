"""Models that are made around a metanetwork, for tasks whose answers are others than its own."""

from __future__ import annotations

from torch import nn

from nngraph.nn.features import Networks
from nngraph.nn.models.base import Column, Metanetwork

__all__ = ["AroundMetanetwork"]


class AroundMetanetwork(nn.Module):
    """A model around a metanetwork, which says of itself what the metanetwork says.

    Args:
        encoder: the metanetwork.
    """

    def __init__(self, encoder: Metanetwork) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def column(self) -> Column:
        """The column of a comparison that the model stands in."""
        return self.encoder.column

    @property
    def reads_signs(self) -> bool:
        """Whether answers change with the signs and phases of sine neurons."""
        return self.encoder.reads_signs

    def fit_statistics(self, networks: Networks) -> None:
        """Set the scales of the inputs from training networks; call once, before training."""
        self.encoder.fit_statistics(networks)
