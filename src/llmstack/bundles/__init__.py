"""Bundles: `llmstack save` writes images to a disk, `llmstack load` reads them on the other side of the gap."""
