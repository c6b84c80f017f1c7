"""Dense prediction on frozen features: frames with depth, normals and poses; depth and normal probes; correspondence."""
