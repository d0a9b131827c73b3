"""List the images of a namespace, describe one image, verify all its bytes."""

from llmstack.inspection.image_details import ImageDetails, LayerDetails, inspect
from llmstack.inspection.namespace_list import ListedImage, list_images
from llmstack.inspection.verification import VerifyResult, verify

__all__ = [
    "ImageDetails",
    "LayerDetails",
    "ListedImage",
    "VerifyResult",
    "inspect",
    "list_images",
    "verify",
]
