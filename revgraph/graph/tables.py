"""Tables that show themselves as text, in rich and in notebooks."""

import html
import io
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

PLAIN = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
"""A line of dashes under the header, and no other lines. It prints on every terminal, whatever its encoding."""

OPEN_ROWS = 25
"""A table of more rows is folded when a notebook shows it first."""


def _restored(text: str, attributes: dict[str, Any]) -> "Table":
    """A copy of a table, from its text and attributes."""
    table = str.__new__(Table, text)
    vars(table).update(attributes)
    return table


class Table(str):
    """A table as text, a string that can be printed, searched and compared.

    A notebook shows it as a table that can be folded, and `rich.print` as a table with lines.

    Args:
        header: Names of the columns. A column without any entry is left out, unless it is the first.
        rows: The cells of each row, of any type. Numbers are shown with 4 significant digits, aligned at the right.
        title: A line above the table.
        footer: A line below it.
    """

    _title: str | None
    _footer: str | None
    _columns: tuple[list[str], list[list[str]], list[bool]]

    def __new__(
        cls, header: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, footer: str | None = None
    ) -> "Table":
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

    def __repr__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # The cells are text by now, so a copy cannot be made of the rows again.
        return _restored, (str(self), vars(self))

    def __rich__(self) -> RichTable:
        return _grid(
            *self._columns, box=SIMPLE_HEAD, title=self._title, title_justify="left", title_style="bold",
            caption=self._footer, caption_justify="left",
        )  # fmt: skip

    def _repr_html_(self) -> str:
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


def folding(title: str, content: str, opened: bool = False) -> str:
    """HTML that can be folded under its title.

    Args:
        title: The title, as text.
        content: What is folded, as HTML.
        opened: Whether it is open at first.
    """
    return f"<details{' open' if opened else ''}><summary>{html.escape(title)}</summary>{content}</details>"


class Tabular:
    """Mixed into a class whose instances are shown as a table: as text, by rich and in notebooks."""

    def table(self) -> Table:
        """The table that is shown."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.table()

    def __rich__(self) -> RichTable:
        return self.table().__rich__()

    def _repr_html_(self) -> str:
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
    # Lines are as long as the table needs, whatever the width of the terminal.
    Console(file=lines, width=10_000, color_system=None, force_terminal=False, force_jupyter=False).print(grid)
    return "\n".join(line.rstrip() for line in lines.getvalue().rstrip("\n").split("\n"))
