"""The learner: Ray actors around DeepSpeed engines. Verbs: step, logprobs, save and load, export."""
