"""The REST interface: one router per resource, values in and JSON out. Knows the use cases, not who calls them."""
