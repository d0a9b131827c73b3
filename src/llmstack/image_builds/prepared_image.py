"""The Docker road for ferry: a repo's files as a script of the site's own prepares them, in an image under /REPO."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmstack.engine.container_script import ScriptSpec, remove_image, run_script
from llmstack.engine.docker_engine import Engine
from llmstack.engine.image_build import build_image, tag_image
from llmstack.errors import UsageError
from llmstack.hf.hub_urls import repo_url
from llmstack.hf.snapshot import RepoType
from llmstack.image_builds.build_plan import BuildRequest, PlannedImage, plan
from llmstack.image_builds.builder import BuildOptions, job_for
from llmstack.image_builds.recipe_folder import images_folder, load_recipes
from llmstack.image_builds.site_settings import Site, logins
from llmstack.reporting import Reporter

STAGE = "prepare"


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """What to prepare: a repo, the script that does it, and what the script is told.

    `repo_type` is `model` or `dataset`, which is also the recipe's name. `token` reaches the script as HF_TOKEN through
    standard input: no layer, image or container setting ever holds it. `bases` replace the image that the result stands
    on (under "") and the one that the script runs in (under "prepare"). `endpoint` is the hub's address.
    """

    repo_id: str
    repo_type: RepoType
    revision: str
    script: Path
    endpoint: str
    token: str | None = field(default=None, repr=False)
    bases: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The repo's address at the hub, the script's REPO_URL."""
        return repo_url(self.repo_id, self.repo_type, self.endpoint)


def build_prepared(wish: PrepareRequest, site: Site, reporter: Reporter, engine: Engine) -> str:
    """Run the script and return the id of the image that holds what it left in /x as /REPO, untagged.

    Raises UsageError if the script cannot be read, LlmstackError with the script's last lines if it fails or leaves
    nothing, and what building raises.
    """
    try:
        script = wish.script.read_bytes()
    except OSError as error:
        raise UsageError(f"the script {wish.script} cannot be read: {error.strerror}") from error
    stage = build_image(engine, job_for(_target(wish, site, script), site, BuildOptions(), STAGE), reporter)
    filled = run_script(engine, _script_job(wish, site, stage), reporter)
    name = f"llmstack-prepared:{uuid.uuid4().hex}"
    try:
        tag_image(engine, filled, [name])
        return build_image(engine, job_for(_target(wish, site, script, name), site, BuildOptions()), reporter)
    finally:
        # The stage below stays, so that the next repo's begins with its tools in place.
        remove_image(engine, name, keep_parents=True)


def _target(wish: PrepareRequest, site: Site, script: bytes, prepared: str = "") -> PlannedImage:
    recipes = load_recipes(images_folder())
    args = {"prepared": prepared}
    order = BuildRequest((wish.repo_type,), bases=wish.bases, args=args, files={"prepare.sh": script})
    [target] = plan(recipes, order, site, lambda _: True)
    return target


def _script_job(wish: PrepareRequest, site: Site, image: str) -> ScriptSpec:
    token = wish.token or ""
    return ScriptSpec(
        title=f"{wish.repo_id} {wish.script.name}",
        image=image,
        environment={
            "REPO_URL": wish.url,
            "REPO_ID": wish.repo_id,
            "REPO_TYPE": wish.repo_type,
            "REVISION": wish.revision,
            "HF_ENDPOINT": wish.endpoint,
        },
        # Proxies may hold a password, and a container's settings are part of the image that is made of it.
        secrets={**({"HF_TOKEN": token} if token else {}), **site.proxies},
        hidden=tuple(filter(None, (token, *logins(site.proxies.values())))),
        network=site.build_network or None,
    )
