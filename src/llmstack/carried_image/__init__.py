"""The carried image: its names, its file index, what a wish list asks for and what the catalogue records."""
