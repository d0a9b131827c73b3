"""What lies in one folder of a repo, for its page. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from llmstack.hub_server.repos import Files


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a folder with the size of all that it holds and the count of its `files` (None for a file)."""

    name: str
    path: str
    size: int
    files: int | None = None


def entries_of(files: Files, folder: str) -> list[Entry]:
    """Return what lies in a folder (the empty one: the repo), folders first; nothing where there is no such folder."""
    prefix = f"{folder}/" if folder else ""
    sizes: dict[str, tuple[int, int]] = {}
    found = []
    for file in files.in_order():
        if not file.path.startswith(prefix):
            continue
        name, slash, _ = file.path[len(prefix) :].partition("/")
        if slash:
            size, count = sizes.get(name, (0, 0))
            sizes[name] = size + file.size, count + 1
        else:
            found.append(Entry(name, file.path, file.size))
    return [Entry(name, prefix + name, size, count) for name, (size, count) in sizes.items()] + found


def crumbs(folder: str) -> list[tuple[str, str]]:
    """Return name and path of each folder on the way to `folder`, itself included."""
    parts = folder.split("/") if folder else []
    return [(name, "/".join(parts[: number + 1])) for number, name in enumerate(parts)]
