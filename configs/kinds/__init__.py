"""The schema of each kind of stage, with its declaration."""
