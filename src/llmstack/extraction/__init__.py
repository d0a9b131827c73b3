"""Extract an image's files into a directory or a Hugging Face cache."""
