"""The data sets with depth, normals and poses, one module each; `aloe.data.frames.named` opens them by name."""
