"""The Docker Engine. The only package that imports docker."""
