"""How the site is made: ``make docs`` writes it to ``build/docs``."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "mettle-cache"
author = "the authors of mettle-cache"
version = release = installed_version("mettle-cache")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "command_pages",
]
exclude_patterns = ["extensions"]

html_theme = "furo"
html_title = f"mettle-cache {release}"
html_static_path = ["pictures"]
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence", "deflist"]
# `file.md#a-heading` leads to that heading
myst_heading_anchors = 3
# a test runs the notebooks; the site shows them with the outputs they are committed with
nb_execution_mode = "off"
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": False}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# what is ours and documented must be found; what is others', or of the inner rooms, is named and leads nowhere
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!mettle_cache\.).*"),
    (r"py:.*", r"mettle_cache\.(?!(LCD|MTI|LayerTokens|TokenBatch|TokenDataset|TokenStore|ExtractConfig)\b).*"),
]

copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
