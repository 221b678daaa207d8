"""Verifiers and other functions that read model text, each in a room of its own: see `service.ConfinedService`."""

from posttrain.sandbox.confined.permissions import Permissions as Permissions
from posttrain.sandbox.confined.service import ConfinedService as ConfinedService
