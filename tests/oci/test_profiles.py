"""Limits of registry services, and their use in plans and errors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import pytest

from llmstack.errors import UsageError
from llmstack.ferrying.base_image import scratch
from llmstack.ferrying.layer_plan import Limits, SplitFile, plan
from llmstack.ferrying.repo_ferry import RepoFerry
from llmstack.hf.snapshot import HubFile, RepoInfo, RepoType, Snapshot
from llmstack.lists.wish_list import RepoRequest
from llmstack.net import Client
from llmstack.oci.layout import Layout
from llmstack.oci.profiles import PROFILES, profile_of
from llmstack.reporting import make_reporter

MB = 1000**2


@pytest.mark.parametrize(
    ("host", "name", "largest"),
    [
        ("docker.io", "Docker Hub", None),
        ("ghcr.io", "GitHub Container Registry", 10_000 * MB),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "Amazon ECR", 54_525_952_000),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "Amazon ECR", 54_525_952_000),
        ("public.ecr.aws", "Amazon ECR Public", 10_485_760_000),
        ("europe-west1-docker.pkg.dev", "Google Artifact Registry", None),
        ("mine.azurecr.io", "Azure Container Registry", 214_748_364_800),
        ("quay.io", "Quay", 21_474_836_480),
        ("registry.local:5000", "registry", None),
        ("ghcr.io.example.org", "registry", None),
    ],
)
def test_a_registry_is_recognized_by_its_host(host, name, largest):
    assert (profile_of(host).name, profile_of(host).max_layer) == (name, largest)


def test_every_limit_is_in_the_docs(pytestconfig):
    text = (pytestconfig.rootpath / "docs/reference/registries.md").read_text()
    for profile in PROFILES:
        if profile.max_layer:
            sizes = {f"{profile.max_layer / unit:,.0f} {name}" for unit, name in ((1000**3, "GB"), (2**20, "MiB"))}
            assert any(f"| {size} |" in text for size in (*sizes, f"{profile.max_layer / 2**30:.0f} GiB"))


def files(*sizes: int) -> list[HubFile]:
    return [HubFile(f"{number:03}.bin", size, "a" * 40) for number, size in enumerate(sizes)]


def test_a_file_larger_than_the_largest_layer_is_an_error():
    (layer,) = plan(files(100 * MB), Limits())
    assert len(plan(files(100 * MB), Limits(layer_size=layer.size))) == 1
    with pytest.raises(
        UsageError, match=r"'001\.bin' has 100 MB, and the destination accepts at most 100 MB"
    ) as refused:
        plan(files(50 * MB, 100 * MB), Limits(layer_size=layer.size - 1))
    assert "--split-large" in (refused.value.hint or "")


def test_grouped_layers_are_not_larger_than_the_largest_layer():
    """Bundles take half of the layers, unless large files would then share a layer that is too large."""
    repo = files(*[90 * MB] * 7, *[10 * MB] * 40)
    assert max(layer.size for layer in plan(repo, Limits(layers=10))) > 170 * MB
    layers = plan(repo, Limits(layers=10, layer_size=170 * MB))
    assert len(layers) <= 10
    assert max(layer.size for layer in layers) <= 170 * MB
    with pytest.raises(UsageError, match="do not fit into 10 layers of at most 95.0 MB".replace(".", r"\.")):
        plan(repo, Limits(layers=10, layer_size=95 * MB))


class Listed:
    """A source that lists the files of a repo and cannot read them."""

    def info(self, repo_id: str, repo_type: RepoType, revision: str) -> RepoInfo:
        return RepoInfo(repo_id, repo_type, revision, "a" * 40, "2024-01-01T00:00:00Z", None, gated=False)

    def snapshot(self, info: RepoInfo) -> Snapshot:
        return Snapshot(info, info.last_modified, tuple(files(100, 200_000)))

    def read(self, info: RepoInfo, file: HubFile, verified: object) -> Generator[bytes, None, None]:
        raise AssertionError(f"{info.repo_id}: {file.path} was read, {verified} waits for it")


def test_nothing_is_transferred_if_a_file_is_too_large(tmp_path):
    with closing(Client()) as client:
        repo_ferry = RepoFerry(client, make_reporter("none"), 2, layer_size=100_000)
        store = Layout(tmp_path / "models")
        with pytest.raises(UsageError, match=r"001\.bin"):
            repo_ferry.ferry(RepoRequest("org/model", "model"), Listed(), store, scratch)
    assert not (tmp_path / "models").exists()


def test_with_split_large_only_what_does_not_fit_is_in_parts_of_the_largest_size():
    repo = files(10 * MB, 250 * MB, 100 * MB, 99 * MB, 1000)
    unsplit = plan(repo, Limits())
    split, *others = plan(repo, Limits(layer_size=100 * MB, split_large=True))
    assert plan(repo, Limits(layer_size=300 * MB, split_large=True)) == unsplit
    assert isinstance(split, SplitFile)
    assert [part.path for part in split.tar_files] == [f".llmstack/parts/{'a' * 40}/{number:05}" for number in range(3)]
    assert sum(part.size for part in split.tar_files) == 250 * MB
    assert 100 * MB - 3 * 512 < split.layer_sizes[0] == split.layer_sizes[1] <= 100 * MB
    # 100 MB of bytes do not fit 100 MB with their header.
    assert [layer.name for layer in others][:2] == ["002.bin", "003.bin"]
    assert len(others[0].layer_sizes) == 2


def test_a_part_of_more_than_eight_gigabytes_has_a_longer_header_and_fits_too():
    (split,) = plan(files(200 * 1000 * MB), Limits(layer_size=10_000 * MB, split_large=True))
    assert max(split.layer_sizes) <= 10_000 * MB
    assert len(split.layer_sizes) == 21


def test_each_part_is_a_layer():
    repo = files(950 * MB, 1000)
    assert len(plan(repo, Limits(layers=11, layer_size=100 * MB, split_large=True))) == 2
    with pytest.raises(UsageError, match="do not fit into 10 layers"):
        plan(repo, Limits(layers=10, layer_size=100 * MB, split_large=True))
    with pytest.raises(UsageError, match="do not fit into 10 layers"):
        plan(files(10**15), Limits(layers=10, layer_size=1, split_large=True))
