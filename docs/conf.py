"""The site: ``make docs`` builds it. Pages are Markdown, the reference comes from docstrings."""

from __future__ import annotations

import sys
from pathlib import Path

from nngraph import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "nngraph"
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "faces",
]
# Paths below the checkout, where the environment may stand too.
exclude_patterns = ["Thumbs.db"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autosummary_generate = False
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88
napoleon_custom_sections = ["Shape", "Source"]
napoleon_use_ivar = True

# Every name that is referred to exists: see faces.py.
nitpicky = True

html_theme = "furo"
html_title = f"nngraph {version}"
html_show_copyright = False
html_copy_source = False
