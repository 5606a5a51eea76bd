"""Strategies: what to measure next in a plan space, and which plan to choose. One small file each."""
