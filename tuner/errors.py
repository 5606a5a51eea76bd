"""The one exception tree of fusetune; each leaf carries a stable machine-readable code.

FusetuneError
├── UserError       the request cannot be served as given (exit code 2, HTTP 4xx)
├── CandidateError  one candidate failed; normally recorded as a trial's Failure, never fatal
├── DeviceError     a device or its worker is gone, or cannot do what is asked
└── InternalError   a defect or a broken environment (exit code 1, HTTP 5xx)
"""

from __future__ import annotations


class FusetuneError(Exception):
    """Base of all errors fusetune raises on purpose.

    Args:
        message: one sentence that says what is wrong, naming the thing.
        code: stable identifier, kebab-case, for programs.
        hint: what to do about it (may be empty).
    """

    default_code = "internal"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class UserError(FusetuneError):
    """The input is at fault: a bad model, option, plan or path."""

    default_code = "bad-request"


class CandidateError(FusetuneError):
    """A candidate cannot be built or run; becomes a failed trial."""

    default_code = "candidate-failed"


class DeviceError(FusetuneError):
    """A device is absent, lost, or lesser than what an artifact needs."""

    default_code = "device"


class InternalError(FusetuneError):
    """fusetune itself or its environment is broken."""

    default_code = "internal"
