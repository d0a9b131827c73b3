"""The annotation and label keys that ferry writes and readers look up.

Keys of image-spec annotations.md, of the CNCF model-spec, and of llmstack.
"""

from __future__ import annotations

TITLE = "org.opencontainers.image.title"
SOURCE = "org.opencontainers.image.source"
COMMIT = "org.opencontainers.image.revision"
REVISION = "org.opencontainers.image.version"
CREATED = "org.opencontainers.image.created"
LICENSES = "org.opencontainers.image.licenses"
BASE_NAME = "org.opencontainers.image.base.name"
BASE_DIGEST = "org.opencontainers.image.base.digest"

# The path of the one file that a layer holds.
FILEPATH = "org.cncf.model.filepath"

REPO_ID = "dev.llmstack.repo-id"
REPO_TYPE = "dev.llmstack.repo-type"
FORMAT = "dev.llmstack.format"
# The Hub's name of the license. LICENSES has it in images of formats 1 and 2, and the SPDX expression since format 3.
LICENSE = "dev.llmstack.license"
# "true" if the image has split files; since format 3.
SPLIT = "dev.llmstack.split"
INCOMPLETE = "dev.llmstack.incomplete"
# "index" on the layer that holds the file index.
LAYER = "dev.llmstack.layer"
# The path of the split file that a layer holds one part of.
PART_OF = "dev.llmstack.part-of"
