"""Sphinx configuration: MyST pages, the furo theme, and an API page made from the package's own list of public names."""

import inspect
import re

import invhyper

project = "invhyper"
author = "The invhyper developers"
copyright = "2026, " + author
release = version = invhyper.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "skeleton"]
html_theme = "furo"
html_title = "invhyper"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "mixed"
nitpicky = False


def plain_docstring(app, what, name, thing, options, lines):
    """Docstrings are plain text: `code`, **bold**, indented equations, `>>>` examples. Here they become reStructuredText."""
    out = []
    for i, line in enumerate(lines):
        first_of_block = line.startswith("    ") and i > 0 and not lines[i - 1].strip()
        if first_of_block and not out[-1:] == ["::"] and not any(old.startswith("::") for old in out[-2:]):
            out += ["::", ""]
        verbatim = line.startswith("    ") or line.lstrip().startswith((">>>", "...")) or _is_output(lines, i)
        out.append(line if verbatim else _escape(line))
    lines[:] = out


def _is_output(lines, i):
    """Whether line i is what an example above it prints: no blank line stands between."""
    while i > 0 and lines[i - 1].strip():
        i -= 1
        if lines[i].lstrip().startswith(">>>"):
            return True
    return False


def _escape(line):
    parts = re.split(r"(`[^`]+`)", line)
    code = [f"``{part.strip('`')}``" if part.startswith("`") else re.sub(r"([|_\\])", r"\\\1", part) for part in parts]
    text = "".join(code)
    text = re.sub(r"(``)(?=\w)", r"\1\\ ", text) if re.search(r"``\w", text) and text.count("``") == 0 else text
    return re.sub(r"(?<!\*)\*(?!\*)", r"\\*", text)


def list_public_names(app, docname, source):
    """The API page names what `invhyper.__all__` names, so that they cannot drift apart."""
    if docname != "api":
        return
    groups = {module: names.split() for module, names in invhyper._HOME.items()}
    kinds = {name: _directive(getattr(invhyper, name)) for names in groups.values() for name in names}
    context = {"groups": groups, "kinds": kinds, "modules": invhyper._MODULES}
    source[0] = app.builder.templates.render_string(source[0], context)


def _directive(thing):
    if inspect.isclass(thing):
        return "autoexception" if issubclass(thing, BaseException) else "autoclass"
    return "autofunction" if callable(thing) else "autodata"


def setup(app):
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("source-read", list_public_names)
