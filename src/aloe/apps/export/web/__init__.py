"""A student as one folder for a browser (`aloe export --to web`): its graph, a runtime of WebAssembly, and a page."""
