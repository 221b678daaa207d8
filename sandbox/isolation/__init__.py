"""The process that forks rooms, and how it locks them in."""
