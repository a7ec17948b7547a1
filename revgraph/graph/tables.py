"""Tables that show themselves as text, in rich and in notebooks."""

import html
import io
import numbers

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

PLAIN = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
"""A rule of dashes under the header, and nothing else: prints on every terminal, whatever its encoding."""

OPEN_ROWS = 25
"""Tables of more rows start folded in a notebook."""


class Table(str):
    """A table, which is its own text: print it, search it, compare it.

    Notebooks show it as a table that folds, and `rich.print` with lines drawn.

    Args:
        header: Names of the columns. Columns without any entry are left out.
        rows: Cells of any type. Numbers are shown with 4 significant digits and aligned at the right.
        title: A line above the table.
        footer: A line below it.
    """

    def __new__(cls, header, rows, title=None, footer=None):
        rows = [tuple(row) for row in rows]
        kept = [i for i in range(len(header)) if i == 0 or not rows or any(_text(row[i]) for row in rows)]
        numeric = [all(row[i] == "" or isinstance(row[i], numbers.Real) for row in rows) and bool(rows) for i in kept]
        cells = [[_text(row[i]) for i in kept] for row in rows]
        grid = _grid([header[i] for i in kept], cells, numeric, box=PLAIN, show_edge=False, pad_edge=False)
        text = "\n".join([*filter(None, [title]), _printed(grid), *filter(None, [footer])])
        table = super().__new__(cls, text)
        table._title, table._footer = title, footer
        table._columns = [header[i] for i in kept], cells, numeric
        return table

    def __repr__(self):
        return str(self)

    def __rich__(self):
        return _grid(
            *self._columns, box=SIMPLE_HEAD, title=self._title, title_justify="left", title_style="bold",
            caption=self._footer, caption_justify="left",
        )  # fmt: skip

    def _repr_html_(self):
        header, rows, numeric = self._columns

        def line(tag, cells):
            styled = (
                f'<{tag} style="text-align:{"right" if right else "left"}">{html.escape(cell)}</{tag}>'
                for cell, right in zip(cells, numeric, strict=True)
            )
            return f"<tr>{''.join(styled)}</tr>"

        table = f"<table><thead>{line('th', header)}</thead><tbody>{''.join(line('td', row) for row in rows)}</tbody>"
        footer = f"<p>{html.escape(self._footer)}</p>" if self._footer else ""
        return folding(self._title or f"{len(rows)} rows", f"{table}</table>{footer}", opened=len(rows) <= OPEN_ROWS)


def folding(title, content, opened=False) -> str:
    """HTML that folds under its title. The title is text, the content HTML."""
    return f"<details{' open' if opened else ''}><summary>{html.escape(title)}</summary>{content}</details>"


class Tabular:
    """Mixed into what shows itself as a table: as text, in rich and in notebooks."""

    def table(self) -> Table:
        raise NotImplementedError

    def __str__(self):
        return self.table()

    def __rich__(self):
        return self.table().__rich__()

    def _repr_html_(self):
        return self.table()._repr_html_()


def _text(cell):
    return f"{cell:.4g}" if isinstance(cell, numbers.Real) and not isinstance(cell, numbers.Integral) else str(cell)


def _grid(header, rows, numeric, **look):
    grid = RichTable(**look)
    for name, right in zip(header, numeric, strict=True):
        grid.add_column(Text(name), justify="right" if right else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row))
    return grid


def _printed(grid):
    lines = io.StringIO()
    # A table is never folded to the width of whatever terminal there is.
    Console(file=lines, width=10_000, color_system=None, force_terminal=False, force_jupyter=False).print(grid)
    return "\n".join(line.rstrip() for line in lines.getvalue().rstrip("\n").split("\n"))
