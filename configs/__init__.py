"""Every knob, typed: the recipe schema, its YAML loader, and the packaged recipes and tiny models."""
