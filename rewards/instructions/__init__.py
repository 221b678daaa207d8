"""Verifiable instructions: IFEval's 25 checkers, a reward over them, and a generator of prompts that ask for them."""

from posttrain.rewards.instructions.generate import random_instructions
from posttrain.rewards.instructions.reward import CHECKERS, REWARDS, instructions

__all__ = ["CHECKERS", "REWARDS", "instructions", "random_instructions"]
