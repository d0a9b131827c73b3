"""Recipes: the folders of images/, and how one becomes a Dockerfile and a build context."""
