"""The command line: one module per verb; parse, import lazily, call one function, print. No logic."""
