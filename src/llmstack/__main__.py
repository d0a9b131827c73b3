"""`python -m llmstack`, and the console script."""

import gc
import sys

from llmstack.cli.app import main


def run() -> None:
    """Run the command line and end the process with its exit code."""
    code = main()
    # All that is left goes with the process: without this the interpreter looks for cycles in it first, which takes
    # longer than the whole end of the process otherwise (80 ms against 15).
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    run()
