"""Configuration of Sphinx. `make docs` builds the site without network access; warnings are errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from llmstack import __version__

project = "llmstack"
author = copyright = "llmstack maintainers"  # noqa: A001 - Sphinx gives the name
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "command_reference", "repo_links", "settings_schema"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
smartquotes = False
exclude_patterns = ["_ext", "_results"]
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
highlight_language = "text"

html_theme = "furo"
html_title = f"llmstack {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
# The schema stays at its own address, where editors find it.
html_extra_path = ["reference/llmstack.schema.json"]
html_theme_options = {}
if repository := os.environ.get("GITHUB_REPOSITORY"):
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    html_theme_options = {
        "source_repository": f"{server}/{repository}/",
        "source_branch": "main",
        "source_directory": "docs/",
    }
