"""Copy models and datasets from the Hub into a registry or an OCI layout, as carried images."""
