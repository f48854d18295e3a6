"""Landscapes: every claim about adaptive optimizers as a recipe that measures it."""
