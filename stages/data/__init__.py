"""Rows in: loading, checks of their form, training conversations, the order of batches."""
