"""Wish lists, which llmstack reads, and the catalogue, which it writes."""
