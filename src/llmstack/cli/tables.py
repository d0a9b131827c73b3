"""Tables on stdout: folded to the width of a terminal, complete in a file or pipe."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Sequence

from llmstack.reporting import printable

# Wide enough for every row.
_NO_TERMINAL = 100_000


def stdout_width() -> int:
    """Return the number of columns of stdout."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _NO_TERMINAL


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """Print rows under their heads; the columns numbered in `right` are right-aligned."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _NO_TERMINAL, highlight=False)
    console.print(table)
