"""How Sphinx builds the documentation: ``make docs``."""

import re

import dugong

project = "dugong"
author = "The dugong developers"
project_copyright = "The dugong developers"
release = version = dugong.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

# Docstrings put the names of Python objects between single backticks.
default_role = "py:obj"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# The Markdown files of the repository are included by pages here; their headings get anchors.
source_suffix = {".rst": "restructuredtext"}
myst_heading_anchors = 2

html_theme = "furo"
html_title = "dugong"
html_baseurl = "https://dugong.readthedocs.io/en/latest/"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6b72", "color-brand-content": "#0b6b72"},
    "dark_css_variables": {"color-brand-primary": "#5ec8cf", "color-brand-content": "#5ec8cf"},
}
html_static_path = ["_static"]
html_css_files = ["dugong.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_copy_source = False


def _hide_unknown(app, what, name, obj, options, signature, returns):
    # What is there only to name ours for the keywords of other clients.
    return signature and re.sub(r", \*\*unknown: [~.\w]*Never", "", signature), returns


def setup(app):
    app.connect("autodoc-process-signature", _hide_unknown)
