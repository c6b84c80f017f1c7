"""How fast an alignment is here: what `aloe bench` measures, with the objects that `aloe align` runs."""
