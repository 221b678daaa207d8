"""Rewards that ask a language model or a classifier."""
