"""The image that `llmstack ferry --prepare` builds: a repo's files as a user's script prepared them, under /REPO."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmstack.engine.container_script import ScriptSpec, remove_image, run_script
from llmstack.engine.docker_build import tag_image
from llmstack.engine.docker_engine import Engine
from llmstack.errors import UsageError
from llmstack.hf.hub_urls import repo_url
from llmstack.hf.snapshot import RepoType
from llmstack.image_builds.build_environment import BuildEnvironment, proxy_credentials
from llmstack.image_builds.build_plan import BuildRequest, ImagePlan, plan_images
from llmstack.image_builds.builder import BuildOptions, build_spec
from llmstack.image_builds.recipe import all_recipes
from llmstack.reporting import QuietReporter, Reporter

STAGE = "prepare"


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """A repo to prepare, and the script that does it.

    `repo_type` is `model` or `dataset`, which is also the recipe's name. `token` reaches the script as HF_TOKEN through
    standard input: no layer, image or container configuration contains it. `bases` replaces the base of the result
    (key "") and the image in which the script runs (key "prepare").
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
        """The repo's URL on the Hub, for the script's REPO_URL."""
        return repo_url(self.repo_id, self.repo_type, self.endpoint)


def build_prepared(request: PrepareRequest, environment: BuildEnvironment, reporter: Reporter, engine: Engine) -> str:
    """Run the script and return the id of an untagged image with the contents of /x under /REPO.

    Raises UsageError if the script cannot be read, LlmstackError with the script's last lines if it fails or leaves
    no file, and the errors of a build.
    """
    try:
        script = request.script.read_bytes()
    except OSError as error:
        raise UsageError(f"script {request.script}: cannot be read: {error.strerror}") from error
    builder, options = environment.builder(), BuildOptions()
    first = build_spec(_plan(request, environment, script), options, builder, STAGE)
    stage = builder.build(engine, first, reporter)
    name = f"llmstack-prepared:{uuid.uuid4().hex}"
    try:
        # The last build, with the stage's empty /x: what it needs is found missing before the script runs for hours.
        tag_image(engine, stage, [name])
        last = build_spec(_plan(request, environment, script, name), options, builder)
        remove_image(engine, builder.build(engine, last, QuietReporter()), keep_parents=True)
        tag_image(engine, run_script(engine, _script_spec(request, environment, stage), reporter), [name])
        return builder.build(engine, last, reporter)
    finally:
        # Keep the stage's own layers: the next repo's build reuses its tools.
        remove_image(engine, name, keep_parents=True)


def _plan(request: PrepareRequest, environment: BuildEnvironment, script: bytes, prepared: str = "") -> ImagePlan:
    args, files = {"prepared": prepared}, {"prepare.sh": script}
    build = BuildRequest((request.repo_type,), bases=request.bases, args=args, files=files)
    [image] = plan_images(all_recipes(environment.settings), build, environment, lambda _: True)
    return image


def _script_spec(request: PrepareRequest, environment: BuildEnvironment, image: str) -> ScriptSpec:
    token = request.token or ""
    return ScriptSpec(
        title=f"{request.repo_id} {request.script.name}",
        image=image,
        environment={
            "REPO_URL": request.url,
            "REPO_ID": request.repo_id,
            "REPO_TYPE": request.repo_type,
            "REVISION": request.revision,
            "HF_ENDPOINT": request.endpoint,
        },
        # Proxy URLs may contain a password, and an image made from a container keeps the container's configuration.
        secrets={**({"HF_TOKEN": token} if token else {}), **environment.proxies},
        hidden=tuple(filter(None, (token, *proxy_credentials(environment.proxies.values())))),
        network=environment.settings.build_network or None,
    )
