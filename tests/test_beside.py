"""Work beside other work: every result in order, errors where they are asked for, and an end that stops it."""

import threading
import time

import numpy as np
import pytest
import torch

from trellis_app.beside import Beside
from trellis_app.export.finish import finish
from trellis_app.heartbeat import StoppedError
from trellis_app.settings import FinishOptions
from trellis_app.types import FinishedAsset, OVoxel, Stage, StageEvent
from trellis_app.warmup import leaky_vessel, voxel_sheet

CPU = torch.device("cpu")


def tripled(item: int, notify, check) -> int:
    notify(StageEvent(Stage.FINISH, f"item {item}", 0, 1, 0.0, None))
    check()
    return 3 * item


def test_results_come_in_order_and_without_a_lead_before_the_next_item():
    with Beside(CPU, tripled, lead=0) as beside:
        for item in range(4):
            assert [made for made in beside.take(item) if isinstance(made, int)] == [3 * item]
        assert list(beside.rest()) == []


def test_items_wait_while_the_caller_goes_on():
    gate = threading.Event()

    def held(item: int, notify, check) -> int:
        gate.wait(10)
        return tripled(item, notify, check)

    with Beside(CPU, held, lead=2) as beside:
        assert list(beside.take(1)) == list(beside.take(2)) == list(beside.ready()) == []
        gate.set()
        assert [made for made in beside.rest() if isinstance(made, int)] == [3, 6]


def test_two_workers_work_at_once_and_results_keep_their_order():
    meeting, later = threading.Barrier(2), threading.Event()

    def met(item: int, notify, check) -> int:
        meeting.wait(10)  # breaks where the items come one after the other
        if item == 1:
            later.wait(10)
        else:
            later.set()
        return tripled(item, notify, check)

    with Beside(CPU, met, lead=2, workers=2) as beside:
        beats = [*beside.take(1), *beside.take(2), *beside.rest()]  # a result may be ready as soon as both have met
        assert [made for made in beats if isinstance(made, int)] == [3, 6]


def test_two_assets_finished_at_once_are_those_finished_alone():
    assets = [voxel_sheet(), leaky_vessel()]

    def finished(asset: OVoxel, notify, check) -> FinishedAsset:
        *_, last = finish(asset, FinishOptions(faces=800, texture_size=128), check=check)
        return last.asset

    alone = [finished(asset, None, lambda: None) for asset in assets]
    for _ in range(3):
        with Beside(CPU, finished, lead=2, workers=2) as beside:
            made = [one for asset in assets for one in beside.take(asset)] + list(beside.rest())
        for one, expected in zip(made, alone, strict=True):
            for name in ("vertices", "faces", "normals", "uvs", "colors"):
                np.testing.assert_array_equal(getattr(one, name), getattr(expected, name))
            np.testing.assert_array_equal(one.textures.base_color, expected.textures.base_color)
            np.testing.assert_array_equal(one.textures.normal, expected.textures.normal)


def test_events_of_the_work_are_told_while_the_caller_waits():
    def slow(item: int, notify, check) -> int:
        made = tripled(item, notify, check)
        time.sleep(0.8)
        return made

    with Beside(CPU, slow, lead=0) as beside:
        *events, result = beside.take(5)
    assert {event.label for event in events} == {"item 5"}
    assert result == 15


def test_leaving_stops_the_work_at_its_next_check():
    begun, stopped = threading.Event(), threading.Event()

    def endless(item: int, notify, check) -> int:
        begun.set()
        try:
            while True:
                time.sleep(0.01)
                check()
        except StoppedError:
            stopped.set()
            raise

    with Beside(CPU, endless, lead=2) as beside:
        assert list(beside.take(1)) == []
        assert begun.wait(5)
    assert stopped.wait(1)


def test_an_error_of_the_work_is_raised_to_the_caller():
    with Beside(CPU, lambda item, notify, check: 1 // item, lead=0) as beside, pytest.raises(ZeroDivisionError):
        list(beside.take(0))
