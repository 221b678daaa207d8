"""The nodes that kinds of stage are made of: inputs, judges, machine, and what a stage declares of itself."""
