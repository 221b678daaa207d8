"""The recipe as a graph of stages, their keys, and the models that it names."""
