"""The data sets with depth, normals and poses, one module each; `aloe.dense.frames` opens them by name."""
