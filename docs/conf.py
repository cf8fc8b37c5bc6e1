"""Settings with which Sphinx builds the manual; `manual.py` fills pages with text from code and SPEC.md."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))

from formats import __version__ as release  # noqa: E402

project = "seft_ref"
author = "the seft_ref authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "manual"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
# a heading of a log or of SPEC.md may skip a level; no other warning is suppressed
suppress_warnings = ["myst.header"]
nitpicky = True
default_role = "code"
# smart quotes would turn the two hyphens of an option into a dash
smartquotes = False
highlight_language = "text"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
# __init__ has the arguments of a class and its errors
autoclass_content = "both"

html_theme = "furo"
html_title = f"seft_ref {release}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_search_scorer = str(HERE / "scorer.js")
