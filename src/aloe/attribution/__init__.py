"""Image and target in, attribution map out."""
