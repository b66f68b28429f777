"""The command `schema`: what the JSON of the other commands holds."""

import json
from typing import TYPE_CHECKING, Annotated

from lossforecast.cli.output import EXIT_CODES, STANDARD_OUTPUT, errors_in_one_line, write
from lossforecast.cli.schemas import SCHEMAS
from lossforecast.errors import ConfigurationError

if TYPE_CHECKING:
    import typer

__all__ = ["add_schema"]


def add_schema(app: "typer.Typer") -> None:
    """Add `schema`."""
    import typer

    @app.command("schema", epilog=EXIT_CODES)
    def command(
        of: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="COMMAND",
                help="The command, such as forecast or runs list. Default: all of them, by name.",
            ),
        ] = None,
    ) -> None:
        """Print the JSON Schema of what --json writes."""
        with errors_in_one_line():
            name = "-".join(of or [])
            if name and name not in SCHEMAS:
                raise ConfigurationError(
                    f"{' '.join(of or []):.60} has no JSON: give one of {', '.join(SCHEMAS)}"
                )
            found = SCHEMAS[name] if name else SCHEMAS
            write(STANDARD_OUTPUT, json.dumps(found, indent=1) + "\n")
