"""A command at work: stage after stage, its actors, its signals, and what it concludes."""
