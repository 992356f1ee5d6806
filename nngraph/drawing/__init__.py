"""All figures; matplotlib is needed only here, and missed by a MissingDependencyError."""

from nngraph.drawing.alignment import draw_alignment
from nngraph.drawing.basis import draw_basis
from nngraph.drawing.curves import Panel, draw_curves, draw_run
from nngraph.drawing.figures import (
    draw_confusion,
    draw_demo,
    draw_images,
    draw_learning_curves,
    draw_network,
    new_figure,
    save_figure,
    style_axes,
)
from nngraph.drawing.zoos import draw_contact_sheet, draw_histograms

__all__ = [
    "Panel", "draw_alignment", "draw_basis", "draw_confusion", "draw_contact_sheet", "draw_curves",
    "draw_demo", "draw_histograms", "draw_images", "draw_learning_curves", "draw_network",
    "draw_run", "new_figure", "save_figure", "style_axes",
]
