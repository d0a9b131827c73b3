"""`llmstack serve`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from llmstack.cli.options import (
    DebugOption,
    FromOption,
    JsonOption,
    PlainHttpOption,
    ProgressOption,
    ProgressStyle,
    QuietOption,
    open_session,
)
from llmstack.errors import UsageError
from llmstack.interrupts import Interrupted

if TYPE_CHECKING:
    from llmstack.model_serving.find_model import FoundModel
    from llmstack.model_serving.serve_plan import ServePlan, ServeRequest
    from llmstack.session import Session

_PRINTED_GPUS = 1


class PrintStyle(StrEnum):
    """The values of --print."""

    COMPOSE = "compose"
    KUBERNETES = "kubernetes"
    KSERVE = "kserve"


class EngineChoice(StrEnum):
    """The values of --engine."""

    LLAMA_CPP = "llama.cpp"
    VLLM = "vllm"


def serve(
    model: Annotated[
        str | None,
        typer.Argument(metavar="REPO_ID[@REVISION]|IMAGE", help="A carried model by its id, or any image of one."),
    ] = None,
    server_args: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGS]", help="Further arguments for the server.")
    ] = None,
    source: FromOption = None,
    hub_url: Annotated[
        str | None, typer.Option("--hub", metavar="URL", help="Let the server load the model from this hub.")
    ] = None,
    engine: Annotated[
        EngineChoice | None, typer.Option("--engine", help="Server (default: llama.cpp for GGUF, else vllm).")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="PATH|TYPE", help="GGUF file, or a quantization (default: Q4_K_M)."),
    ] = None,
    port: Annotated[
        str, typer.Option("--port", metavar="[ADDRESS:]PORT", help="Port to listen on, at 127.0.0.1 by default.")
    ] = "8000",
    context_length: Annotated[
        int | None,
        typer.Option("--context-length", min=1, help="Tokens of context (default: what the server chooses)."),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, help="Number of GPUs (default: 1 where there are any).")
    ] = None,
    shm_size: Annotated[str, typer.Option("--shm-size", metavar="SIZE", help="Size of /dev/shm.")] = "16GiB",
    server_image: Annotated[
        str | None,
        typer.Option("--server-image", metavar="REF", help="Image of the server (default: that of the recipe)."),
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="NAME", help="Docker network of the server, such as host.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Exit when the server is ready.")] = False,
    remove_copy: Annotated[
        bool, typer.Option("--rm", help="Before Docker 28: also remove the volume with the model at the end.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the servers in the Docker Engine.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop and remove the servers of this model.")] = False,
    print_: Annotated[
        PrintStyle | None, typer.Option("--print", help="Print a file for another tool, and run nothing.")
    ] = None,
    init_container: Annotated[
        bool,
        typer.Option("--init-container", help="kubernetes: copy the model, for clusters without image volumes."),
    ] = False,
    native: Annotated[
        bool, typer.Option("--native", help="kserve: mount the image as a volume of Kubernetes (oci+native://).")
    ] = False,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Serve a carried model: llama.cpp or vLLM in a container, with an OpenAI-compatible API. Ctrl-C stops it.

    With LLAMA_API_KEY or VLLM_API_KEY in the environment, clients must send that key.
    """
    from llmstack.model_serving.serve_plan import ServeRequest

    if list_:
        if stop or model is not None:
            raise UsageError(
                f"--list and {'--stop' if stop else model}: --list lists all servers", hint="leave one out"
            )
        _list(as_json=as_json)
        return
    if model is None:
        raise UsageError("no model", hint="llmstack serve REPO_ID; llmstack list shows what was carried")
    if stop:
        _stop(model, remove_copy=remove_copy, quiet=quiet)
        return
    _check_print(print_, init_container=init_container, native=native)
    if print_:
        in_cluster = print_ != PrintStyle.COMPOSE
        _check_unused(
            print_,
            {"--detach": detach, "--rm": remove_copy, "--json": as_json, "--network": bool(network) and in_cluster},
        )
    if hub_url and source:
        raise UsageError("--hub and --from: both say where the model is", hint="leave one out")
    if server_args and not server_args[0].startswith("-"):
        raise UsageError(
            f"{server_args[0]}: one model at a time; arguments of the server begin with an option",
            hint="write them after --, for example: -- --threads 8",
        )
    request = ServeRequest(
        server=None if engine is None else engine.value,
        file=file,
        listen=port,
        context_length=context_length,
        gpus=gpus,
        shm_size=shm_size,
        server_image=server_image,
        network=network,
        in_cluster=print_ in {PrintStyle.KUBERNETES, PrintStyle.KSERVE},
        extra=tuple(server_args or ()),
    )
    with open_session(progress, quiet=quiet, warnings_only=as_json, plain_http=plain_http) as session:
        if print_:
            found = _find(session, model, source, hub_url, prefer_engine=source is None and print_ == "compose")
            _print(_plan(session, found, request, _PRINTED_GPUS), print_, init_container, native)
        else:
            found = _find(session, model, source, hub_url, prefer_engine=True)
            _run(session, found, request, detach=detach, remove_copy=remove_copy, as_json=as_json)


def _check_print(style: PrintStyle | None, *, init_container: bool, native: bool) -> None:
    if init_container and style != PrintStyle.KUBERNETES:
        raise UsageError("--init-container: needs --print kubernetes")
    if native and style != PrintStyle.KSERVE:
        raise UsageError("--native: needs --print kserve")


def _check_unused(style: PrintStyle, given: Mapping[str, bool]) -> None:
    """Refuse options that the printed file would ignore."""
    for option in (name for name, is_given in given.items() if is_given):
        hint = "leave it out" + ("; pods are in the cluster's network" if option == "--network" else "")
        raise UsageError(f"{option}: cannot be used with --print {style.value}", hint=hint)


def _find(session: Session, model: str, source: str | None, hub_url: str | None, *, prefer_engine: bool) -> FoundModel:
    from llmstack.model_serving.find_model import find_image, find_in_hub

    if hub_url:
        return find_in_hub(model, hub_url, session.client)
    return find_image(
        model, source, session.namespace, session.registries, session.reporter.note, prefer_engine=prefer_engine
    )


def _plan(session: Session, found: FoundModel, request: ServeRequest, gpus: int) -> ServePlan:
    from llmstack.model_serving.find_model import server_namespaces
    from llmstack.model_serving.serve_plan import make_plan

    return make_plan(found.model, request, server_namespaces(found.location, session.namespace), gpus=gpus)


def _print(plan: ServePlan, style: PrintStyle, init_container: bool, native: bool) -> None:
    from llmstack.model_serving.compose import compose_file
    from llmstack.model_serving.kserve import kserve_objects
    from llmstack.model_serving.kubernetes import kubernetes_objects

    if style == PrintStyle.COMPOSE:
        text = compose_file(plan)
    elif style == PrintStyle.KUBERNETES:
        text = kubernetes_objects(plan, init_container=init_container)
    else:
        text = kserve_objects(plan, native=native)
    sys.stdout.write(text)


def _run(
    session: Session,
    found: FoundModel,
    request: ServeRequest,
    *,
    detach: bool,
    remove_copy: bool,
    as_json: bool,
) -> None:
    from llmstack.engine.containers import has_gpus
    from llmstack.engine.docker_engine import Engine
    from llmstack.model_serving.run_server import running_server, wait_until_ended, wait_until_healthy

    reporter = session.reporter
    with Engine() as engine:
        gpus = 1 if request.gpus is None and has_gpus(engine) else 0
        plan = _plan(session, found, request, gpus)
        if plan.files.weights:
            reporter.note(f"{plan.server.name} loads {plan.files.weights}")
        secured = bool(os.environ.get(plan.server.key_variable))
        if plan.exposed and not secured:
            reporter.warn(
                f"other machines can use this server without a key: set {plan.server.key_variable} to require one"
            )
        options = {"keep": detach, "remove_copy": remove_copy}
        with running_server(engine, plan, found, reporter, **options) as server:
            wait_until_healthy(engine, server, session.client, reporter)
            try:
                if as_json:
                    sys.stdout.write(json.dumps(server.to_json(), indent=2) + "\n")
                else:
                    sys.stdout.write(f"{server.model}: {server.url}\n{plan.curl(server.url, with_key=secured)}\n")
                sys.stdout.flush()
                if detach:
                    reporter.note(f"it runs in the background: llmstack serve --stop {server.model}")
                    return
                reporter.note("Ctrl-C stops it")
                wait_until_ended(engine, server)
            except Interrupted:
                # From here on, a signal is the normal end of a server: exit code 0.
                if detach:
                    raise
                reporter.note("stopped")


def _list(*, as_json: bool) -> None:
    from llmstack.cli.tables import print_table
    from llmstack.engine.docker_engine import Engine
    from llmstack.model_serving.run_server import list_servers
    from llmstack.reporting import human_time

    with Engine() as engine:
        servers = list_servers(engine)
    if as_json:
        sys.stdout.write(json.dumps([each.to_json() for each in servers], indent=2) + "\n")
        return
    rows = [
        (
            each.model,
            each.server,
            each.url if each.running else "",
            human_time(max(0.0, time.time() - each.started)) if each.running else each.status,
            each.name,
        )
        for each in servers
    ]
    print_table(("model", "server", "url", "age", "container"), rows)


def _stop(model: str, *, remove_copy: bool, quiet: bool) -> None:
    from llmstack.engine.docker_engine import Engine
    from llmstack.model_serving.run_server import stop_servers

    with Engine() as engine:
        stopped, volumes = stop_servers(engine, model, remove_copy=remove_copy)
    if not quiet:
        for server in stopped:
            sys.stdout.write(f"stopped {server.name}\n")
        for volume in volumes:
            sys.stdout.write(f"removed the volume {volume}\n")
