"""The site: MyST pages, the reference made from the program itself. ``make docs`` builds it."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import hfgd

project = "hfgd"
author = "the hfgd authors"
version = release = hfgd.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.doctest",
    "generated",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "_ext"]
html_theme = "sphinx_book_theme"
html_title = "hfgd"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
nitpicky = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
# `make docs` needs no network: inventories.py writes the few names that our signatures use, with the
# addresses of their pages
generated_inventories = {
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "pillow": "https://pillow.readthedocs.io/en/stable/",
}
intersphinx_mapping = {}  # filled by _ext/generated.py
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
