"""Wish lists, which people write and llmstack reads, and the catalogue, which llmstack writes."""
