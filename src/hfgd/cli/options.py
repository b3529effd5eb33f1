"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Code = Annotated[
    Path | None,
    typer.Option(help="A folder that you trust: a model may run its Python code, or a .pt2 in it."),
]
