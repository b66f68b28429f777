"""The command `forecast`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lossforecast.cli.live import LiveForecast, file_versions, wait_for_first_loss
from lossforecast.cli.options import (
    EVENT_OPTIONS,
    JSON_HELP,
    LOG_HELP,
    LOG_OPTIONS,
    STORE_OPTIONS,
    TARGET_HELP,
    LogOptions,
    with_options,
)
from lossforecast.cli.output import (
    EXIT_CODE_HELP,
    EXIT_CODES,
    STANDARD_OUTPUT,
    check_outputs,
    check_plot,
    errors_in_one_line,
    exit_by_advice,
    print_note,
)
from lossforecast.errors import ConfigurationError

if TYPE_CHECKING:
    import typer

__all__ = ["add_forecast"]


def add_forecast(app: "typer.Typer") -> None:
    """Add `forecast`."""
    import typer

    @app.command("forecast", epilog=EXIT_CODES)
    @with_options(*EVENT_OPTIONS, *LOG_OPTIONS, *STORE_OPTIONS)
    def command(
        options: LogOptions,
        log_: Annotated[Path, typer.Argument(help=LOG_HELP, metavar="LOG")],
        target: Annotated[float | None, typer.Option(help=TARGET_HELP)] = None,
        follow: Annotated[
            bool,
            typer.Option(
                "--follow", help="Forecast again whenever the log grows, until the run ends."
            ),
        ] = False,
        every: Annotated[
            float, typer.Option(help="With --follow: seconds between two readings.", min=0.1)
        ] = 30.0,
        json_: Annotated[Path | None, typer.Option("--json", help=JSON_HELP)] = None,
        plot: Annotated[
            Path | None,
            typer.Option(help="Draw the forecast to this .png, .pdf or .svg; - for stdout."),
        ] = None,
        exit_code: Annotated[bool, typer.Option("--exit-code", help=EXIT_CODE_HELP)] = False,
    ) -> None:
        """Forecast the final loss of a run in progress."""
        with errors_in_one_line():
            check_outputs({"--json": json_, "--plot": plot})
            check_plot(plot)
            if follow and STANDARD_OUTPUT in (json_, plot):
                raise ConfigurationError("--follow writes many times: give --json and --plot paths")
            seen = wait_for_first_loss(log_, options, every) if follow else {}
            live = LiveForecast.from_log(log_, options, target)
            said = ""

            def tell(error: Exception) -> None:
                nonlocal said
                note = f"{error}; trying again every {every:g} s"
                if note != said:
                    print_note(note)
                said = note

            try:
                live.show(json_, plot, brief=False)
            except (ConfigurationError, OSError) as error:  # a full disk
                if not follow or isinstance(error, BrokenPipeError):
                    raise
                tell(error)
                seen = {}
            while follow and not live.over:
                time.sleep(every)
                try:
                    if (files := file_versions(log_)) == seen:
                        continue
                    latest = LiveForecast.from_log(log_, options, target)
                    latest.show(json_, plot, brief=True)
                    live, seen = latest, files
                except BrokenPipeError:
                    raise
                except (ConfigurationError, OSError) as error:  # away, half written, a full disk
                    tell(error)
            if exit_code:
                exit_by_advice([live.advice.action])
