"""OCI: references, manifests, registries, layouts, archives, layers. No Hugging Face, no Docker, no command line."""
