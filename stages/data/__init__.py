"""Rows in: loading, generators, chat templates, packing, filters."""
