"""`python -m llmstack`, and the console script."""

import sys

from llmstack.cli.app import main


def run() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(main())


if __name__ == "__main__":
    run()
