"""Building the stack's images: which, on top of what, under which names; then the engine does it."""
