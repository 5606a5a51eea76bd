"""Measuring on many machines. Only ``link`` and ``member`` import Ray, in processes of their own."""
