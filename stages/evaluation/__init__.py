"""What evaluations measure: intervals, mode following, held-out questions during RL."""
