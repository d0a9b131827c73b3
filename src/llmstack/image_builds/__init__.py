"""Build images from recipes: recipe -> BuildRequest -> ImagePlan -> RenderedImage -> BuildSpec -> BuildResult."""
