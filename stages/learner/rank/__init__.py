"""One rank of the learner: the model, packed batches, attention, head and optimizer. Knows no Ray."""
