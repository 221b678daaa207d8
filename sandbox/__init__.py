"""Runs code that a model wrote and gives verdicts that it can't forge.

The design in one line: a solution room S runs the code, a tester room T runs the tests, they exchange plain
data only, and T alone owns the channel on which a verdict can arrive.
"""
