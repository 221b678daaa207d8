"""What a command would do: each stage reused, resumed or run, and about how large it is."""
