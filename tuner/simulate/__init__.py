"""Simulated accelerators: an analytic machine, described by a spec file. No number from here was measured."""
