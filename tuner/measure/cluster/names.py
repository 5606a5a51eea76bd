"""What things are called inside a Ray cluster."""

from __future__ import annotations

NAMESPACE = "fusetune"
_MEMBER = "member-"


def member_name(node: str) -> str:
    """The actor of the node with this name of ours."""
    return _MEMBER + node


def is_member(name: str) -> bool:
    return name.startswith(_MEMBER)


def node_resource(node: str) -> str:
    """A resource that only this node has: what asks for it runs there."""
    return f"node-{node}"


def device_resource(fingerprint: str) -> str:
    """One of these per device: whoever has it measures there alone."""
    return f"device-{fingerprint}"
