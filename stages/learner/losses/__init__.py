"""Losses and advantages: pure functions, each with its source."""
