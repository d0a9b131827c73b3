"""The registry API of the hub: `/v2/`, with manifests that are made from file indexes."""
