"""The versions that servers compare are those of the templates."""

from __future__ import annotations

from tuner.kernels.registry import BY_NAME
from tuner.versions import ENGINE, engine
from tuner.versions import TEMPLATES as VERSIONS


def test_the_table_names_every_template_and_its_version() -> None:
    assert {template.name: template.version for template in BY_NAME.values()} == VERSIONS


def test_every_version_counts() -> None:
    other = {engine(protocol="other"), engine(plan=99), engine(templates=VERSIONS | {"conv2d": 99}), engine(reach=99)}
    assert len(other | {ENGINE}) == 5
    assert engine(templates=dict(reversed(VERSIONS.items()))) == ENGINE
