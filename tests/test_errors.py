"""Errors reach the user from other processes as the same two sentences."""

import pickle

import pytest

from trellis_app import errors


@pytest.mark.parametrize("kind", errors.TrellisError.__subclasses__())
def test_errors_travel_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("The disk is full.", "Free some space.")))
    assert type(error) is kind
    assert (error.what, error.to_do) == ("The disk is full.", "Free some space.")
    assert str(error) == "The disk is full. Free some space."
