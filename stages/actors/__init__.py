"""Ray actors: which GPU each gets, how their answers are awaited, shards over many of them."""
