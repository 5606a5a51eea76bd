"""Searches compared with each other and with the exhaustive best."""
