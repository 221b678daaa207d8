"""Environments: what answers the tool calls of a policy. Subclass `Environment`, and name the class in a recipe."""

from posttrain.rewards.environments.base import Environment as Environment
