"""`llmstack images`."""

from __future__ import annotations

from llmstack.cli.exit_codes import EDGE
from llmstack.cli.options import DebugOption, JsonOption


def images(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """List the images that `llmstack build` can build: recipes, their parents and variants, and the tags they get."""
    EDGE.debug = debug
    from llmstack.cli.build_output import print_recipes
    from llmstack.image_builds.build_environment import BuildEnvironment
    from llmstack.image_builds.recipe_folder import images_folder, load_recipes
    from llmstack.settings import load_settings

    environment = BuildEnvironment.from_settings(load_settings())
    print_recipes(load_recipes(images_folder()), environment, as_json=as_json)
