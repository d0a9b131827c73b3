"""llmstack carries large language models to places the internet does not reach."""

__version__ = "0.2.0"
