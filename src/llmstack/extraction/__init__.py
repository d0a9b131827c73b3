"""Getting files back out of images: into a folder, or into a Hugging Face cache."""
