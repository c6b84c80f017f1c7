"""A trained student as a folder ready for the hub, with its model card, and its way there (see `aloe.publish.folder`)."""
