"""Convolutions of images too large to be copied before the tasks start; and what is copied of the others."""

from __future__ import annotations

import pytest
from kernel_cases import DEVICES, check, generate, runs_here

from tuner.kernels import conv_shape
from tuner.kernels.conv2d import Conv2d
from tuner.kernels.conv_shape import ConvShape

HERE = [name for name, machine in DEVICES.items() if runs_here(machine)]
PADDED = ConvShape(1, 64, 14, 14, 64, 14, 14, 3, 3, (1, 1), (1, 1), (1, 1, 1, 1), 1)
STRIDED = ConvShape(1, 64, 14, 14, 64, 7, 7, 1, 1, (2, 2), (1, 1), (0, 0, 0, 0), 1)


@pytest.mark.parametrize("seed", range(6))
def test_rows_of_a_large_image_are_right(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_shape, "LARGEST_COPY", 0)
    machine = DEVICES[HERE[-1 - seed % len(HERE)]]
    check(Conv2d(), generate("conv2d", machine, 300 + seed), machine, extra=1)


def test_a_border_is_copied_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PADDED.flat and PADDED.copied == 64 * 16 * 16 * 4
    monkeypatch.setattr(conv_shape, "LARGEST_COPY", PADDED.copied - 1)
    fresh = ConvShape(**{name: getattr(PADDED, name) for name in PADDED.__dataclass_fields__})
    assert not fresh.flat and fresh.copied == 0


def test_of_a_strided_1x1_convolution_only_the_pixels_that_count_are_copied() -> None:
    assert STRIDED.flat and STRIDED.gathered and STRIDED.copied == 64 * 7 * 7 * 4
