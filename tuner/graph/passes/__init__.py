"""Cleaning passes, each named and separately switchable. ``registry`` lists them; ``pipeline`` runs them."""
