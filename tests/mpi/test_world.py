"""The MPI world is the one that was asked for; else every other test here proves nothing."""

from __future__ import annotations

import os

import pytest


@pytest.mark.mpi
def test_world_has_the_expected_size() -> None:
    from mpi4py import MPI

    assert int(os.environ["QCMB_EXPECT_RANKS"]) == MPI.COMM_WORLD.size
