"""Rewards that look at the text: equality, choices, lengths, languages, tools, documents."""
