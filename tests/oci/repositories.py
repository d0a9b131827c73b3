"""Repositories in registries, and content for them."""

from __future__ import annotations

import os
from pathlib import Path

from llmstack.engine.credentials import lookup
from llmstack.net import Client
from llmstack.oci.reference import Digest, Reference
from llmstack.oci.repository import Registries, Repository
from llmstack.oci.spec import CONFIG, LAYER_TAR, Descriptor, Manifest
from llmstack.oci.store import write_bytes
from tests.support.registry import Registry

DATA = os.urandom(700_000)
BLOB = Descriptor(LAYER_TAR, Digest.of(DATA), len(DATA))
CONFIG_DATA = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'


def open_repository(client: Client, name: str, *, write: bool = True, **options) -> Repository:
    return Registries(client, lookup, **options).repository(Reference.parse(name), write=write)


def put_image(repository: Repository, tag: str, data: bytes = DATA) -> Manifest:
    write_bytes(repository, data)
    write_bytes(repository, CONFIG_DATA)
    config = Descriptor(CONFIG, Digest.of(CONFIG_DATA), len(CONFIG_DATA))
    manifest = Manifest(config, (Descriptor(LAYER_TAR, Digest.of(data), len(data)),))
    repository.put_manifest(manifest.to_raw(), tag)
    return manifest


def uploads(registry: Registry, repository: Repository) -> list[Path]:
    """Return the data files of unfinished uploads; distribution 2.8 leaves their empty directories."""
    directory = registry.root / "docker/registry/v2/repositories" / repository.name.partition("/")[2]
    return list(directory.glob("_uploads/*/data"))
