"""What goes in and out, as pydantic models: inputs are checked by them, outputs only described.

Outputs are made by service.api.views without pydantic, for speed; a test checks that they fit.
"""
