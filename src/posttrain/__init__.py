"""posttrain: post-train language models the way Qwen3 was made, from one YAML file."""

__version__ = "0.1.0"
