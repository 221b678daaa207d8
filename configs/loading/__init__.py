"""From text to plain data: YAML with places, `extends`, references to the environment, problems that teach."""
