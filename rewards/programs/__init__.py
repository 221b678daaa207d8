"""Rewards on programs."""
