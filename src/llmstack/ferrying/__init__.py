"""Carrying a repo from the hub into a registry or an OCI layout."""
