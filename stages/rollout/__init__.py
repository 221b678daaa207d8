"""Workers that turn prompts into groups of completions, and what stages see of them."""
