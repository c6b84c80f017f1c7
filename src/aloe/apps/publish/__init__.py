"""A trained student as a folder ready for the hub, with its model card, and its way there ( `aloe.apps.publish.folder`)."""
