from collections.abc import Iterator

import pytest

from posttrain.errors import SandboxError
from posttrain.sandbox.supervisor import Judge


@pytest.fixture(scope="session", params=["A", "B", "C"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    """A judge of each tier that this host allows."""
    try:
        judge = Judge(request.param)
    except SandboxError as error:
        pytest.skip(str(error))
    yield judge
    judge.close()


@pytest.fixture(scope="session")
def judge_b() -> Iterator[Judge]:
    """The default tier, for what doesn't depend on the tier."""
    try:
        judge = Judge("B")
    except SandboxError as error:
        pytest.skip(str(error))
    yield judge
    judge.close()
