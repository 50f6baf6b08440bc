"""Sphinx configuration: `make docs` builds the site into docs/_build/html, with warnings as errors."""

import shutil
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent

project = "rust_diffusion"
author = "the rust_diffusion authors"
project_copyright = author
release = version = installed_version("rust-diffusion")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"rust_diffusion {release}"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
# The notebooks are committed with their outputs, and executed by the test suite.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False

# Sphinx reads only what lies below this folder.
notebooks = HERE / "notebooks"
notebooks.mkdir(exist_ok=True)
for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
    shutil.copy(notebook, notebooks)

# The command line's help, as the program prints it.
from click import Context  # noqa: E402
from rust_diffusion.cli import cli  # noqa: E402

generated = HERE / "generated"
generated.mkdir(exist_ok=True)
parent = Context(cli, info_name="rust-diffusion", **cli.context_settings)
for name, command in cli.commands.items():
    context = Context(command, parent, info_name=name)
    (generated / f"{name}.txt").write_text(command.get_help(context) + "\n", encoding="utf-8")
