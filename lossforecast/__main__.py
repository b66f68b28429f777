"""``python -m lossforecast``: the command line."""

from lossforecast.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
