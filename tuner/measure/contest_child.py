"""The contestant's process: the child of ``tuner.measure.child`` with one more role, "contest"."""

from tuner.measure import child
from tuner.types import FailureKind

if __name__ == "__main__":
    child._ROLES["contest"] = ("tuner.measure.contest_turns", FailureKind.ERROR)
    child.main()
