"""Sphinx: MyST pages, the furo theme, an API page made from the list of public names, a gallery from the studies."""

import inspect
import re
from pathlib import Path

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
autodoc_inherit_docstrings = False


def plain_docstring(app, what, name, thing, options, lines):
    """Docstrings are plain text with `code`, **bold**, indented equations and examples: to reStructuredText."""
    out, block = [], []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
            continue
        out += _paragraph(block) + [""]
        block = []
    lines[:] = out


def _paragraph(block):
    if block and block[0].startswith("    "):
        return ["::", "", *block]
    if block and block[0].lstrip().startswith(">>>"):
        return block
    return [_escape(line) for line in block]


def _escape(line):
    """Code gets its double quotes; outside of it, marks of reStructuredText that are mathematics here are escaped."""
    code, out = re.compile(r"`([^`]+)`(\w?)"), []
    for text, span, letter in _pieces(code, line):
        out += [_plain(text), f"``{span}``" if span else "", "\\ " + letter if letter else ""]
    return "".join(out)


def _pieces(pattern, line):
    """(text before, code, letter right after) for every piece of code in a line, then what is left."""
    at = 0
    for match in pattern.finditer(line):
        yield line[at : match.start()], match.group(1), match.group(2)
        at = match.end()
    yield line[at:], "", ""


def _plain(text):
    return re.sub(r"(?<!\*)\*(?!\*)", r"\\*", re.sub(r"([|_\\])", r"\\\1", text))


def fill_templates(app, docname, source):
    """The pages that are made from what they describe, so that they cannot drift apart from it."""
    contexts = {"api": public_names, "gallery": studies}
    if docname in contexts:
        source[0] = app.builder.templates.render_string(source[0], contexts[docname]())


def public_names() -> dict:
    """What `invhyper.__all__` names."""
    groups = {module: names.split() for module, names in invhyper._HOME.items()}
    kinds = {name: _directive(getattr(invhyper, name)) for names in groups.values() for name in names}
    return {"groups": groups, "kinds": kinds, "modules": invhyper._MODULES}


def studies() -> dict:
    """Name, first paragraph of its README and pictures (docs/NAME.png, or any that starts the name) of each study."""
    docs = Path(__file__).parent
    found = []
    for readme in sorted(docs.parent.glob("case_studies/*/README.md")):
        name, paragraphs = readme.parent.name, readme.read_text(encoding="utf-8").split("\n\n")
        pictures = [path.name for path in sorted(docs.glob("*.png")) if name.startswith(path.stem)]
        found.append({"name": name, "about": paragraphs[1].strip(), "pictures": pictures})
    return {"studies": found}


def _directive(thing):
    if inspect.isclass(thing):
        return "autoexception" if issubclass(thing, BaseException) else "autoclass"
    return "autofunction" if callable(thing) else "autodata"


def setup(app):
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("source-read", fill_templates)
