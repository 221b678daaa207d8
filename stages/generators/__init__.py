"""Prompts and rows that programs make: endless, seeded, with a held-out split."""
