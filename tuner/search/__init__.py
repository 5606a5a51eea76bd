"""Strategies over plans and over knobs."""
