"""One function for each reader of untrusted bytes: any input ends in a result or an LlmstackError.

`python -m tests.fuzz` drives them by coverage; test_corpus.py runs them over the seeds and earlier findings.
"""

from __future__ import annotations

import contextlib
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from llmstack.carried_image.file_index import BlobRange, FileIndex, IndexedFile
from llmstack.carried_image.image_location import RegistryLocation, locate
from llmstack.carried_image.naming import Namespace, check_repo_id, split_revision, tag_for
from llmstack.carried_image.selection import select
from llmstack.errors import LlmstackError
from llmstack.extraction.destination_layout import CacheLayout
from llmstack.extraction.fetch_plan import case_conflicts
from llmstack.hf.front_matter import parse_card, split_card
from llmstack.hub_server.pages.readme_html import render
from llmstack.hub_server.paths import normalized
from llmstack.hub_server.repo_info import hub_date
from llmstack.hub_server.repos import Files, Revision
from llmstack.hub_server.routes import find_route, get_clone, get_healthz
from llmstack.hub_server.tensor_headers import LENGTH, read_gguf, safetensors_length, safetensors_parameters
from llmstack.image_builds.recipe import load_recipe
from llmstack.lists import catalogue
from llmstack.lists.catalogue import merge
from llmstack.lists.wish_list import parse_wishlist
from llmstack.llama.params import Version, detect_version, read_params
from llmstack.llama.tokenizer import read_vocabulary
from llmstack.net.http_body import inflated
from llmstack.net.http_headers import content_range, next_link, requested_delay
from llmstack.net.urls import display_url, redirected
from llmstack.oci.archive import DockerArchive, OciArchive
from llmstack.oci.auth import Challenge, check_realm
from llmstack.oci.compression import decompressed
from llmstack.oci.layout import Layout, find_manifest, tags_of
from llmstack.oci.reference import Digest, Reference, is_tag
from llmstack.oci.rootfs import Rootfs
from llmstack.oci.spec import (
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RawManifest,
    canonical_json,
    media_type_of,
    parse_object,
)
from llmstack.oci.store import CHUNK
from llmstack.oci.tar_reader import EntryKind, TarEntry, TarReader
from llmstack.reporting.text import fit, printable, width_of
from llmstack.settings import load_settings

_SCRATCH = tempfile.mkdtemp(prefix="llmstack-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
_NAMESPACE = Namespace(None, f"{_SCRATCH}/none")
_KINDS: dict[str, EntryKind] = {"a": "file", "b": "directory", "c": "symlink", "d": "hardlink", "e": "other"}
# Links may expand, but not without limit (see rootfs.py).
_MAX_LINKED = 20_000
_PIECE = 4000
_DIGEST = Digest("sha256:" + "0" * 64)
_REVISION = Revision(
    repo_type="model",
    repo_id="org/model",
    name="main",
    commit="0" * 40,
    image="registry.example/models:org--model",
    digest=_DIGEST,
    size=0,
    files=1,
    license=None,
    gated=False,
    created=None,
    needs_extract=False,
    reader=Layout(Path(_SCRATCH) / "none"),
)
_FILES = Files({"a.png": IndexedFile("a.png", 1, "0" * 40, "0" * 64, (BlobRange(_DIGEST, 0, 1),))}, {})


def reference(data: bytes) -> None:
    """References, digests, platforms, and other names of images and repos."""
    text = data.decode(errors="surrogateescape")
    readers: tuple[Callable[[str], object], ...] = (Digest.parse, Platform.parse, Namespace.parse, check_repo_id)
    for read in readers:
        with contextlib.suppress(LlmstackError):
            read(text)
    with contextlib.suppress(LlmstackError):
        parsed = Reference.parse(text)
        assert Reference.parse(str(parsed)) == parsed
    with contextlib.suppress(LlmstackError):
        tag_for(*split_revision(text))
    argument, _, source = text.partition("\n")
    with contextlib.suppress(LlmstackError):
        request = locate(argument, source or None, "model", _NAMESPACE)
        assert is_tag(request.location.tag or "none") or not isinstance(request.location, RegistryLocation)


def json_object(data: bytes) -> None:
    """JSON from registries and images: what is read can be shown, and written again."""
    with contextlib.suppress(LlmstackError):
        value = parse_object(data, "a document")
        assert parse_object(canonical_json(value), "the same document") == value
        repr(value).encode("utf-8", "backslashreplace")


def manifest(data: bytes) -> None:
    """Manifests, indexes and configs."""
    raw = RawManifest("", data)
    with contextlib.suppress(LlmstackError):
        media_type_of(raw.json())
    with contextlib.suppress(LlmstackError):
        found = Manifest.parse(raw)
        assert Manifest.parse(found.to_raw()) == found
    with contextlib.suppress(LlmstackError):
        index = Index.parse(raw)
        tags_of(index)
        for descriptor in index.manifests:
            assert Descriptor.from_json(descriptor.to_json()) == descriptor
            assert descriptor.size < 2**63
        find_manifest(index, "latest", "a layout")
    with contextlib.suppress(LlmstackError):
        config = ImageConfig.parse(data)
        assert isinstance(str(config.platform), str)
        assert all(isinstance(text, str) for pair in config.labels.items() for text in pair)
        assert all(len(digest.hex) == 64 for digest in config.diff_ids)


def layout(data: bytes) -> None:
    """An OCI layout's index.json, and a manifest that it can name."""
    folder = Path(_SCRATCH) / "layout"
    folder.mkdir(exist_ok=True)
    opened = Layout(folder)
    index, _, body = data.partition(b"\n\n")
    with contextlib.suppress(LlmstackError):
        (folder / "index.json").write_bytes(index)
        digest, _ = opened.write_blob(lambda: [body])
        opened.manifest(digest)
    with contextlib.suppress(LlmstackError):
        tags = opened.tags()
        assert sorted(opened.digests()) == tags
        opened.put_manifest(RawManifest("", body), "new")
        assert set(opened.tags()) == {*tags, "new"}


def layer(data: bytes) -> None:
    """Layers in any compression, with the checksums in their headers corrected."""
    rootfs = Rootfs("REPO")
    with contextlib.suppress(LlmstackError):
        for tar in data.split(b"\nnext layer\n")[:4]:
            reader = TarReader(decompressed(_cut(_with_valid_checksums(tar)), "a layer"), "a layer", len(tar))
            size = 0
            for entry in reader:
                assert entry.size >= 0
                _check_inside(rootfs.add(entry))
                size += sum(map(len, reader.content()))
                # A decompression bomb expands only as far as it is read.
                if size > 16 * CHUNK:
                    return
            rootfs.end_layer()
        _check_links(rootfs)


def merging(data: bytes) -> None:
    """Entries of layers, one per line: a letter for the kind, the name, a target. A blank line ends a layer."""
    rootfs = Rootfs("REPO")
    with contextlib.suppress(LlmstackError):
        for line in data.decode(errors="surrogateescape").split("\n")[:200]:
            if not line:
                rootfs.end_layer()
                continue
            name, _, target = line[1:].partition(" ")
            _check_inside(rootfs.add(TarEntry(name, _KINDS.get(line[0], "file"), 0, target)))
        rootfs.end_layer()
        _check_links(rootfs)


def file_index(data: bytes) -> None:
    """The file index of a carried image."""
    with contextlib.suppress(LlmstackError):
        index = FileIndex.parse(_cut(data))
        paths = [file.path for file in index.files]
        for path in paths:
            _check_inside(path)
        case_conflicts(paths)
        select(paths, index.selection, str)
        assert FileIndex.parse([index.to_bytes()]) == index
        # The functions that list, inspect, the hub and the catalogue call with it.
        json.dumps(asdict(index)).encode()
        assert index.size < len(paths) * 2**63 + 1
        assert hub_date(index.created)
        if index.agrees_with("org--tiny", "model"):
            assert (index.repo_id, index.revision) == ("org/tiny", "main")
        assert len({(file.oid, file.sha256, file.size) for file in index.files}) == len({*_oids(index)})
        CacheLayout(Path("cache"), index)


def checkpoint(data: bytes) -> None:
    """The params.json and the tokenizer.model of a LLaMA checkpoint."""
    path = Path(_SCRATCH) / "checkpoint"
    path.write_bytes(data)
    try:
        detect_version(read_params(path), tiktoken=False, tied=False)
    except LlmstackError as error:
        message = error.message
    else:
        message = ""
    # Advice and types of Python are no help to a user.
    assert not any(words in message for words in ("set_int_max_str_digits", "to float", "float()"))
    with contextlib.suppress(LlmstackError):
        vocabulary = read_vocabulary(path)
        assert vocabulary.specials(Version.V3, instruct=True).bos_id < vocabulary.size


def wish_list(data: bytes) -> None:
    """Wish lists."""
    text = data.decode(errors="replace")
    parsed = parse_wishlist(text, "list.txt", "model", "https://hub.example:8080")
    for entry in parsed.entries:
        assert tag_for(entry.repo_id, entry.revision)
        select(["config.json"], entry.selection, str)
    assert all(str(problem).isprintable() for problem in parsed.problems)
    assert len(parsed.entries) + len(parsed.problems) <= text.count("\n") + 1


def archive(data: bytes) -> None:
    """Archives from `docker save` and skopeo."""
    path = Path(_SCRATCH) / "archive.tar"
    path.write_bytes(_with_valid_checksums(data))
    for opened in (DockerArchive(path), OciArchive(path)):
        with contextlib.suppress(LlmstackError):
            raw = opened.manifest("")
            for blob in Manifest.parse(raw).layers[:3]:
                assert sum(map(len, opened.read_blob(blob))) == blob.size


def encoded_body(data: bytes) -> None:
    """A response body in gzip or zlib format."""
    size = 0
    with contextlib.suppress(LlmstackError):
        for chunk in inflated(iter(_cut(data)), "a body", "gzip"):
            assert len(chunk) <= CHUNK
            size += len(chunk)
            # Like read_limited: a bomb is decoded only up to a limit.
            if size > CHUNK:
                return


def headers(data: bytes) -> None:
    """Response headers: challenges, redirects, links, ranges, delays."""
    text = data.decode("latin-1")
    challenge = Challenge.parse(text)
    for place in ("https://registry.example", "http://127.0.0.1:5000"):
        with contextlib.suppress(LlmstackError):
            realm = check_realm(challenge.parameters.get("realm", ""), place)
            assert realm.lower().startswith("https:") or place.startswith("http:")
            display_url(realm)
        with contextlib.suppress(LlmstackError):
            target, sent = redirected(f"{place}/v2/", text, {"Authorization": "secret"})
            assert "Authorization" not in sent or target.startswith(place)
    next_link({"Link": text})
    content_range({"Content-Range": text})
    delay = requested_delay({"Retry-After": text, "RateLimit": text})
    assert delay is None or delay >= 0


def settings(data: bytes) -> None:
    """llmstack.yaml and image.yaml."""
    folder = Path(_SCRATCH) / "recipe"
    folder.mkdir(exist_ok=True)
    for name in ("llmstack.yaml", "image.yaml", "Dockerfile.j2"):
        (folder / name).write_bytes(data)
    with contextlib.suppress(LlmstackError):
        load_settings(environ={}, folder=folder)
    with contextlib.suppress(LlmstackError):
        load_recipe(folder)


def hub(data: bytes) -> None:
    """READMEs with model cards, which the hub shows, and the paths of requests."""
    text = data.decode(errors="replace")
    json.dumps(parse_card(text), allow_nan=False)
    assert "<script" not in render(split_card(text), _REVISION, _FILES)
    if found := find_route(normalized(text.partition("\n")[0])):
        route, target = found
        assert not target.repo_id or check_repo_id(target.repo_id)
        assert route.public == (route.handler in {get_healthz, get_clone})


def weight_headers(data: bytes) -> None:
    """The headers of safetensors and GGUF files."""
    with contextlib.suppress(LlmstackError):
        json.dumps(asdict(read_gguf(_cut(data))), allow_nan=False)
    with contextlib.suppress(LlmstackError):
        stop = LENGTH + safetensors_length(data[:LENGTH])
        counts = safetensors_parameters(data[LENGTH:stop])
        assert all(count >= 0 for count in counts.values())
    with contextlib.suppress(LlmstackError):
        safetensors_parameters(data)


def texts(data: bytes) -> None:
    """Output for terminals, and the catalogue, which users edit."""
    text = data.decode(errors="surrogateescape")
    assert printable(text).isprintable()
    assert width_of(fit(printable(text), 30)) == 30
    image = printable(text[20:40])
    row = catalogue.CatalogueRow("a/b", "model", "main", "0" * 40, "2024", 7, text[:20], image, Digest.of(b""))
    new = catalogue.upsert(text, row)
    assert row.key in catalogue.parse(new)
    assert catalogue.upsert(new, row) == new
    base, _, rest = text.partition("\0")
    ours, _, theirs = rest.partition("\0")
    merge(base, ours, theirs)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        reference,
        json_object,
        manifest,
        layout,
        layer,
        merging,
        file_index,
        checkpoint,
        wish_list,
        archive,
        encoded_body,
        headers,
        settings,
        hub,
        weight_headers,
        texts,
    )
}


def _oids(index: FileIndex) -> Iterator[str]:
    for file in index.files:
        assert len(file.oid) == 40 or file.oid == file.sha256
        yield file.oid


def _cut(data: bytes) -> list[bytes]:
    return [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]


def _with_valid_checksums(data: bytes) -> bytes:
    """Return a tar with valid checksums in its headers (POSIX.1-2017, pax)."""
    blocks = bytearray(data)
    for start in range(0, len(blocks) - tarfile.BLOCKSIZE + 1, tarfile.BLOCKSIZE):
        if blocks[start + 257 : start + 262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % sum(blocks[start : start + tarfile.BLOCKSIZE])
    return bytes(blocks)


def _check_inside(path: str | None) -> None:
    assert path is None or (path and not path.startswith("/") and not {"", ".", ".."} & set(path.split("/"))), path


def _check_links(rootfs: Rootfs) -> None:
    for number, link in enumerate(rootfs.links()):
        assert number < _MAX_LINKED
        _check_inside(link.path)
        _check_inside(link.same_as)
    for path in rootfs.files:
        _check_inside(path)


def seeds(name: str) -> list[bytes]:
    """Return the first inputs of a target: the files of its corpus, and the tars that seeds.py makes."""
    from tests.fuzz.seeds import made

    folder = Path(__file__).parent / "corpus" / name
    return [path.read_bytes() for path in sorted(folder.glob("*"))] + made(name)
