"""Verifiers of other libraries, and what makes them safe."""
