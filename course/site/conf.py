"""How Sphinx turns the pages of `pages.py` into the site. Started by build.py, not by hand."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for mathml

project = "gpulstm"
author = "gpulstm contributors"
language = "en"  # with en_GB the search ends in an error: its translation of a plural is empty
html_title = "gpulstm: the course"

extensions = ["myst_nb", "mathml", "sphinx.ext.githubpages"]  # the last for a file that GitHub Pages wants
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["taken"]  # notebooks to download

nb_execution_mode = "off"  # the outputs are those that the tests have compared
nb_merge_streams = True
nb_ipywidgets_js = {}  # no widget is stored: sliders are figures there. The default would load scripts from a CDN
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # as deep as the glossary's terms
smartquotes = False  # the words stay as they are written; it would also make a dash of the two in --gpu
html_math_renderer = "mathml"

html_theme = "furo"
pygments_dark_style = "a11y-high-contrast-dark"  # the light one is its sister. Furo's underlines modules, like links
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["opened_as_a_file.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_use_index = False  # the glossary is the index
html_domain_indices = False
