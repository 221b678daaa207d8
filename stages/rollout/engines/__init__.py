"""The engines of a rollout worker: transformers and vLLM, and what both share of decoding."""
