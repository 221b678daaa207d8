"""Workers that turn prompts into groups of completions."""
