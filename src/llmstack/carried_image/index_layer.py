"""The top layer of a carried image: the file index, and the directories of the image.

Docker 20.10 gives a directory without an entry mode 0600, and the top layer decides: without these entries, only root
could read files in directories. In one layer, they leave the data layers as they are if a file is added elsewhere.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

from llmstack.carried_image.file_index import FORMAT, INDEX_PATH, ROOT, FileIndex
from llmstack.oci import tar_writer


def index_layer(index: FileIndex, size: int, chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Yield the tar of the layer that holds `index`, serialized as `chunks` of `size` bytes in all."""
    directories = _directories(index) if index.format == FORMAT else ()
    return tar_writer.layer([tar_writer.TarFile(INDEX_PATH, size)], [chunks], directories)


def _directories(index: FileIndex) -> list[str]:
    """Return all directories of the image that ferry fills, each after its parent."""
    found: set[str] = set()
    entries = (file.entry_path(root) for root in {index.root, ROOT} for file in index.files)
    for entry in (INDEX_PATH, *entries):
        directory = entry.rpartition("/")[0]
        while directory and directory not in found:
            found.add(directory)
            directory = directory.rpartition("/")[0]
    return sorted(found, key=str.encode)
