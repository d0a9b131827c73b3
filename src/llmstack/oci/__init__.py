"""References, documents, registries, layouts, archives, tar layers: nothing of Hugging Face, Docker or the CLI."""
