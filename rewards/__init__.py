"""Completions in, scores out. A recipe names rewards; the registry to read is `base.BUILTINS`."""
