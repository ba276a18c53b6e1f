"""Everything in this folder needs a GPU, and says so where there is none."""

from __future__ import annotations

import pytest
from devices import why_no_cuda

HERE = "tests/cuda"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_cuda()
    if reason is None:
        return
    for item in items:
        if HERE in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason=reason))
