"""Stand-ins for outside things, and the contracts that they and the real ones pass alike."""

import pytest

pytest.register_assert_rewrite("tests.fakes.contract")
