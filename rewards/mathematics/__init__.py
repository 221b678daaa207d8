"""The mathematics verifier."""
