"""Operators for TVM's expressions that stay whole until loops are vectorised; what they become depends on the lanes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tvm import tirx
from tvm.ir import register_op_attr

_PURE = 1  # of TVM's kinds of effects


def call(name: str, dtype: str, lowered: Callable[[Any], Any], *arguments: Any) -> Any:
    """A call of the operator ``name``, which has no effects.

    Args:
        dtype: of one lane of its result.
        lowered: the call, by then of scalars or vectors -> what it stands for; called when LLVM's code is made. The
            first one given for a name holds.
    """
    _register(name, lowered)
    return tirx.call_intrin(dtype, name, *arguments)


@cache
def _register(name: str, lowered: Callable[[Any], Any]) -> None:
    register_op_attr(name, "TVectorizable", True)
    register_op_attr(name, "TCallEffectKind", _PURE)
    register_op_attr(name, "llvm.FLowerIntrinsic", lowered)
