"""The JSON schema of llmstack.yaml, made from the class Settings, and the directive `settings`, which lists it.

Write the file that editors take: python docs/_ext/settings_schema.py (make schema).
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from llmstack.settings import BuildSettings, Settings, Size

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SCHEMA = Path(__file__).parents[1] / "reference" / "llmstack.schema.json"
TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
TYPES: dict[Any, dict[str, Any]] = {
    str: TEXT,
    str | None: TEXT,
    Path | None: TEXT,
    tuple[str, ...]: {"type": "array", "items": TEXT},
    tuple[Path, ...]: {"type": "array", "items": TEXT},
    int: {"type": "integer", "minimum": 1},
    float: {"type": "number", "exclusiveMinimum": 0},
    bool: {"type": "boolean"},
    Size | None: {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": "^[0-9]{1,15} ?[KMGT]?i?B?$"},
        ]
    },
}
DESCRIPTIONS = {
    "namespace": "Where images go to and come from: registry/path, or oci:DIR.",
    "base": "Base image of carried images: a reference, oci:DIR, an archive, or scratch.",
    "jobs": "Largest number of parallel transfers. Default: one per processor, 4 to 8.",
    "plain_http": "Registries (host or host:port) without TLS. Loopback addresses need no entry.",
    "timeout": "Seconds without data after which a connection counts as lost.",
    "retry_wait": "Seconds before the first retry. Each further wait is twice as long.",
    "max_layer": "Largest layer that the target accepts, in bytes or as 20 GiB. Overrides the built-in table.",
    "split_large": "Split files that are larger than one layer of the target.",
    "hub_refresh": "Seconds between two listings of the registry by llmstack hub.",
    "hub_trusted_proxies": "IP addresses and networks of proxies whose X-Forwarded headers llmstack hub believes.",
    "trust": "Trust file, or a public key: verify and extract require signatures. Relative to llmstack.yaml.",
    "pip_index": "Python package index for image builds. No credentials in the URL.",
    "pip_extra_index": "Additional Python package indexes for image builds.",
    "pip_trusted_host": "Hosts that pip trusts without TLS verification during image builds.",
    "apt_mirror": "Mirror of the Debian and Ubuntu archives for image builds.",
    "http_proxy": "Proxy for HTTP during image builds.",
    "https_proxy": "Proxy for HTTPS during image builds.",
    "no_proxy": "Hosts that image builds reach without a proxy.",
    "ca_cert": "PEM file with certificate authorities that built images trust. Relative to llmstack.yaml.",
    "recipes": "Directories with recipes of your own. Relative to llmstack.yaml.",
    "builder": "Builder of images: auto, classic or buildx. auto takes buildx if it is installed.",
    "pip_config": "pip configuration with credentials, a secret of build steps. Needs buildx.",
    "netrc": "netrc file with credentials, a secret of build steps. Needs buildx.",
    "build_network": "Docker network mode of build steps.",
}


def schema() -> dict[str, Any]:
    """Return the schema; a setting without a description is a KeyError."""
    hints, default = get_type_hints(Settings), Settings()
    properties = {}
    build = {field.name for field in fields(BuildSettings)}
    for field in sorted(fields(Settings), key=lambda field: field.name in build):
        value = getattr(default, field.name)
        properties[field.name] = {
            "description": DESCRIPTIONS[field.name],
            **TYPES[hints[field.name]],
            # Not a default that depends on the machine.
            **({} if value in {None, "", ()} or field.default is MISSING else {"default": value}),
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llmstack.yaml",
        "description": "Settings of llmstack.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def text() -> str:
    """Return the schema as it is committed."""
    return json.dumps(schema(), indent=2) + "\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    class SettingsList(SphinxDirective):
        def run(self) -> list[nodes.Node]:
            found = nodes.definition_list()
            for name, value in schema()["properties"].items():
                paragraph = nodes.paragraph("", value["description"])
                facts = {"Variable": f"LLMSTACK_{name.upper()}"}
                if "default" in value:
                    facts["Default"] = json.dumps(value["default"]).strip('"')
                for label, code in facts.items():
                    paragraph += [nodes.Text(f" {label}: "), nodes.literal(code, code), nodes.Text(".")]
                term = nodes.term("", "", nodes.literal(name, name))
                found += nodes.definition_list_item("", term, nodes.definition("", paragraph))
            return [found]

    app.add_directive("settings", SettingsList)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    SCHEMA.write_text(text())
