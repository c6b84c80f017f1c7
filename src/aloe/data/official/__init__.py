"""The data sets of the paper in the layouts that their authors publish: lists of images beside the images."""
