"""What the build of the documentation adds to its pages: pages from the root, results of code, and formulas."""

import ast
import contextlib
import html
import importlib.util
import io
import os
import re
import tempfile
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent

FROM_ROOT = {
    "README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
}  # fmt: skip
"""Pages that live in the root of the repository."""

SHOWN = {
    "quickstart.md", "choosing.md", "rules.md", "composites.md", "gallery.md", "is-it-right.md", "recurrent.md",
    "tables.md", "text.md", "transformers.md",
}  # fmt: skip
"""Pages whose code is run by the build, and followed by what it shows, as in a notebook."""

BLOCK = re.compile(r"^```python\n(.*?)^```\n", flags=re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL)


def on_files(files, config):
    for source, page in FROM_ROOT.items():
        content = (ROOT / source).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page, content=content))


def on_page_markdown(markdown, page, config, files):
    for source, target in FROM_ROOT.items():
        markdown = markdown.replace(f"](../{source})", f"]({target})").replace(f"]({source})", f"]({target})")
    # The page about KerasHub is shown without results where KerasHub is not installed.
    missing = "import keras_hub" in markdown and importlib.util.find_spec("keras_hub") is None
    if page.file.src_uri not in SHOWN or missing:
        return markdown
    names, stem = {}, Path(page.file.src_uri).stem

    def run(block):
        shown = []
        for result in results(block[1], names, page.file.src_uri):
            if isinstance(result, bytes):
                picture = f"images/{stem}-{block.start()}.png"
                files.append(File.generated(config, picture, content=result))
                result = f"![What the code above shows]({picture})"
            shown.append(result)
        return "\n\n".join([block[0], *shown, ""])

    # Pages may write files, which must not stay among those of the project.
    with tempfile.TemporaryDirectory() as folder:
        before = os.getcwd()
        os.chdir(folder)
        try:
            return BLOCK.sub(run, markdown)
        finally:
            os.chdir(before)


def on_page_content(content, page, config, files):
    def formula(found):
        return convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline")

    return FORMULA.sub(formula, content)


def results(code, names, page):
    """What a block prints, as Markdown, and the value of its last line, as Markdown or as the bytes of a PNG."""
    tree = ast.parse(code, page)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, page, "exec"), names)
        value = eval(compile(last, page, "eval"), names) if last else None
    if printed.getvalue():
        yield f"```text\n{printed.getvalue().rstrip()}\n```"
    for method in ("_repr_png_", "_repr_html_"):
        if hasattr(value, method):
            yield getattr(value, method)()
            return
    if value is not None:
        yield f"```text\n{value}\n```"
