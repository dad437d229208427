"""How Sphinx builds the documentation: ``make docs``."""

import re

import dugong

project = "dugong"
author = "The dugong developers"
project_copyright = "The dugong developers"
release = version = dugong.__version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

# Docstrings put the names of Python objects between single backticks.
default_role = "py:obj"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "alabaster"
html_theme_options = {
    "description": "An HTTP/1.1 client for Python",
    "fixed_sidebar": True,
    "page_width": "64rem",
}
html_static_path = ["_static"]
html_css_files = ["side-by-side.css"]
html_show_sourcelink = False


def _hide_unknown(app, what, name, obj, options, signature, returns):
    # What is there only to name ours for the keywords of other clients.
    return signature and re.sub(r", \*\*unknown: [~.\w]*Never", "", signature), returns


def setup(app):
    app.connect("autodoc-process-signature", _hide_unknown)
