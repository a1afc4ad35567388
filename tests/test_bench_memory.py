"""Memory that runs out in each stage, pretended on a CPU: what the benchmark reports and what the pipeline does."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.test_bench_pipeline import CPU, tiny  # noqa: F401
from trellis_app import bench_memory, bench_pipeline, pipeline
from trellis_app.bench_models import RandomTokens, Target

TOTAL = 10**9


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU of TOTAL bytes of which 0.5e9 are taken; `fraction` is what the process may take of it."""
    state = SimpleNamespace(fraction=1.0)

    def limit(fraction: float, _device: torch.device) -> None:
        state.fraction = fraction

    for name, value in {
        "set_per_process_memory_fraction": limit,
        "get_per_process_memory_fraction": lambda _device: state.fraction,
        "get_device_properties": lambda _device: SimpleNamespace(total_memory=TOTAL),
        "memory_reserved": lambda _device: TOTAL // 2,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return state


@pytest.mark.parametrize("stage", bench_memory.STARTS)
def test_each_stage_ends_in_the_message_and_the_next_run_works(
    stage: str, memory: SimpleNamespace, tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    """Only the stage whose memory is taken away fails; finishing goes on without a GPU."""
    bench = bench_pipeline.PipelineBench(tmp_path, CPU, None, RandomTokens(CPU))
    bench.steering.target = Target.of(64, CPU, radius=0.34)
    failed: list[str] = []

    def failing(name: str, times: int) -> None:
        owner = pipeline if name == "finish" else bench.pipeline
        real = getattr(owner, name)

        def work(*arguments: object, **options: object) -> object:
            if memory.fraction < 1 and len(failed) < times:
                failed.append(name)
                raise torch.cuda.OutOfMemoryError("full")
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, work)

    for name in ("structure", "shape", "decode_shape", "material", "decode_material"):
        failing(name, times=9)
    failing("finish", times=1)
    monkeypatch.setattr(bench_memory, "FINISH", bench_memory.FinishOptions(faces=500, texture_size=512))
    case = bench_memory._case(bench, "512", stage, True)
    assert len(failed) == 1
    assert case.allowed_gb == pytest.approx(bench_memory.NOTHING / 1e9, abs=0.01)
    assert not case.again  # a CPU has no smaller plan
    assert case.next_run == "finished"
    if stage == "finishing":
        assert case.ended == "finished"
        assert case.warnings == ("The GPU has no room for finishing; it is done on the CPU.",)
    else:
        assert case.ended.startswith("MachineError: The GPU ran out of memory.")
    assert memory.fraction == 1
    assert stage in bench_memory.table({"cases": [case.__dict__]})
