"""The carried image: its names, its file index, and how to open it."""
