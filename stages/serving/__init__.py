"""Models that stages and rewards ask: judges, reward models, endpoints."""
