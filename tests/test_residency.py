"""The plan of what stays on the GPU, and bringing models in and out."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from trellis_app.memory import CONTEXT_GB, GB, LEAST_SPACE, MOST_SPACE, MemoryPlan, free_gb, out_of_memory, plan
from trellis_app.pinned import _lock, pinned_block
from trellis_app.residency import CAUTION, MOST_RECOVERIES, Attempt, Berth, Residency
from trellis_app.sparse.workspace import Workspace

SIZES = {"a": 3 * GB, "b": 2 * GB, "c": 1 * GB}
RELEASED = {f"flow {n}": 26 * GB // 10 for n in range(5)} | {"shape": GB, "material": GB, "encoder": 12 * GB // 10}
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("budget", "stays", "ahead"),
    [
        (32, set(RELEASED), False),
        (24, set(RELEASED) - {"flow 4"}, True),
        (12, {"material"}, True),
        (9, {"material"}, False),
        (8, set(), False),
        (6, set(), False),
        (1, set(), False),
    ],
)
def test_plan_of_the_released_models(budget: float, stays: set[str], ahead: bool) -> None:
    found = plan(RELEASED, "cuda", budget)
    assert found.stays == stays
    assert found.ahead == ahead
    assert LEAST_SPACE <= found.space.size <= MOST_SPACE
    assert not found.frugal


def test_less_memory_means_less_space_and_a_retry_still_less() -> None:
    plans = [plan(RELEASED, "cuda", budget) for budget in (80, 8, 7, 6, 5, 4, 1)]
    sizes = [one.space.size for one in plans]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == MOST_SPACE
    assert all(one.smallest().space.size < one.space.size and one.smallest().frugal for one in plans)


def test_what_is_free_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"mem_get_info": (10 * GB, 20 * GB), "memory_allocated": 4 * GB, "memory_reserved": 5 * GB}
    for name, value in known.items():
        monkeypatch.setattr(torch.cuda, name, lambda _device, value=value: value)
    for fraction, expected in ((1.0, 11.0), (0.5, 6.0), (0.1, -2.0)):
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _device, value=fraction: value)
        assert free_gb(CPU) == expected


def test_words_of_a_full_gpu() -> None:
    assert out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert out_of_memory(RuntimeError("Triton Error [CUDA]: out of memory"))
    assert not out_of_memory(RuntimeError("shape mismatch"))
    assert not out_of_memory(None)


def test_all_stay_on_a_cpu() -> None:
    assert plan(SIZES, "cpu") == MemoryPlan(frozenset(SIZES))
    model, residency = nn.Linear(2, 2), Residency(CPU, lambda budget: plan(SIZES, "cpu", budget))
    with residency.resident("a", model) as inside:
        assert inside is model
    assert not residency.can_shrink


def always(one: MemoryPlan) -> Callable[[float | None], MemoryPlan]:
    """A planner with one plan."""
    return lambda _budget: one


def mixed() -> nn.Sequential:
    """Several dtypes, an odd number of elements, a buffer."""
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 7).half()).eval()


def test_a_berth_keeps_every_value() -> None:
    model = mixed()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    Berth(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert len({tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}) == 1


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_pinned_block_has_its_size(size: int) -> None:
    block = pinned_block(size)
    assert (len(block), block.dtype) == (size, torch.uint8)
    view = block.fill_(7)[size // 2 :]
    del block
    assert bool((view == 7).all())  # the pages live as long as a view of them


@pytest.mark.gpu
def test_a_pinned_block_is_locked_exactly() -> None:
    block = pinned_block(5 << 20)
    assert block.is_pinned()
    assert pinned_block(5 << 20).data_ptr() != block.data_ptr()
    assert torch.equal(block.fill_(3).cuda(non_blocking=True).cpu(), block)
    assert not _lock(block)  # it is locked already
    assert torch.ones(3, device="cuda").sum().item() == 3  # the refusal disturbs nobody


@pytest.mark.gpu
def test_moves_on_a_gpu() -> None:
    device = torch.device("cuda")
    models = {key: mixed() for key in "abc"}
    expected = {key: {k: t.clone() for k, t in model.state_dict().items()} for key, model in models.items()}
    residency = Residency(device, always(MemoryPlan(frozenset(), ahead=True)))

    def use(key: str) -> None:
        with torch.inference_mode(), residency.resident(key, models[key]):
            state = models[key].state_dict()
            assert all(t.is_cuda and torch.equal(t.cpu(), expected[key][k]) for k, t in state.items())

    for key in "abcabcacb":
        use(key)
    residency.rest()
    assert not any(berth._coming for berth in residency._berths.values())
    with pytest.raises(RuntimeError, match="stop"), residency.resident("a", models["a"]):
        raise RuntimeError("stop")
    assert not models["a"][0].weight.is_cuda
    assert residency.can_shrink
    residency.shrink()
    assert not residency.can_shrink
    use("b")


@pytest.mark.gpu
def test_what_stays_is_left_there() -> None:
    model = mixed()
    with Residency(torch.device("cuda"), always(MemoryPlan(frozenset("a")))).resident("a", model):
        assert model[0].weight.is_cuda
    assert model[0].weight.is_cuda


class FakeEvent:
    def synchronize(self) -> None:
        pass


class FakeStream:
    """Stands for a stream of copies where there is no GPU."""

    def wait_stream(self, _other: object) -> None:
        pass

    def wait_event(self, _event: object) -> None:
        pass

    def record_event(self) -> FakeEvent:
        return FakeEvent()


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Residency:
    """A residency whose device is the main memory again; blocks there are counted by their storages."""
    monkeypatch.setattr("torch.cuda.current_stream", lambda _device: FakeStream())
    monkeypatch.setattr("torch.cuda.stream", lambda _stream: nullcontext())
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    residency = Residency(CPU, always(MemoryPlan(frozenset("abc"), ahead=True)))
    monkeypatch.setattr(residency, "moves", True)
    monkeypatch.setattr(residency, "_stream", FakeStream)
    return residency


def storage(model: nn.Module) -> int:
    return next(model.parameters()).untyped_storage().data_ptr()


def test_shrinking_sends_staying_models_home(pretended: Residency) -> None:
    models = {key: mixed() for key in "ab"}
    for key in "ab":
        with pretended.resident(key, models[key]):
            pass
    assert not pretended._berths
    assert pretended.can_shrink
    pretended.shrink()
    assert not pretended.can_shrink
    assert [storage(models[key]) for key in "ab"] == [pretended._berths[key]._host.data_ptr() for key in "ab"]
    assert pretended.plan.frugal
    pretended.plan = MemoryPlan(frozenset("ab"))
    with pretended.resident("a", models["a"]):
        models["a"][0].weight.data = models["a"][0].weight.data.clone()  # as if moved to the device again
    pretended.shrink()
    assert storage(models["a"]) == pretended._berths["a"]._host.data_ptr()


def test_the_next_run_plans_again_with_less_each_time(pretended: Residency, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[float | None] = []

    def planner(budget: float | None) -> MemoryPlan:
        planned.append(budget)
        return MemoryPlan(frozenset("ab"))

    monkeypatch.setattr(pretended, "_planner", planner)
    monkeypatch.setattr("trellis_app.residency.free_gb", lambda _device: 9.0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 1e9)
    pretended.recover()
    assert planned == []  # nothing ran out
    for _ in range(MOST_RECOVERIES + 1):
        pretended.shrink()
        assert pretended.plan.frugal
        pretended.recover()
    room = 10.0 + CONTEXT_GB
    assert planned == pytest.approx([room * CAUTION**times for times in range(1, MOST_RECOVERIES + 1)])
    assert pretended.plan.frugal  # too small a device keeps the smallest plan


def test_a_model_in_use_stays_while_another_comes(pretended: Residency) -> None:
    pretended.plan = MemoryPlan(frozenset(), ahead=True)
    models = {key: mixed() for key in "abc"}
    expected = {key: model[0].weight.clone() for key, model in models.items()}
    for _ in range(3):
        with pretended.resident("a", models["a"]):
            there = storage(models["a"])
            assert pretended._berths["a"]._coming[0].numel() % (2 << 20) == 0  # no room for others beside it
            with pretended.resident("b", models["b"]):
                assert storage(models["a"]) == there != pretended._berths["a"]._host.data_ptr()
            pretended.rest()
            assert storage(models["a"]) == there
        with pretended.resident("c", models["c"]):
            pass
        pretended.rest()
        for key, berth in pretended._berths.items():
            assert storage(models[key]) == berth._host.data_ptr()
            assert berth._coming is None
            assert torch.equal(models[key][0].weight, expected[key])


def test_one_more_attempt_with_a_smaller_plan(pretended: Residency) -> None:
    pretended.plan = MemoryPlan(frozenset(), space=Workspace(1 << 30))
    seen: list[MemoryPlan] = []
    let_go: list[bool] = []

    def work(failures: int) -> None:
        for attempt in pretended.attempts(lambda: let_go.append(True)):
            with attempt:
                seen.append(pretended.plan)
                if len(seen) <= failures:
                    raise torch.cuda.OutOfMemoryError("full")

    work(failures=1)
    assert let_go == [True]
    assert [one.space.size for one in seen] == [1 << 30, LEAST_SPACE]
    seen.clear()
    with pytest.raises(torch.cuda.OutOfMemoryError):  # the smallest plan was tried
        work(failures=1)
    assert len(seen) == 1


def test_an_attempt_swallows_nothing_else() -> None:
    with pytest.raises(ValueError, match="other"), Attempt(final=False):
        raise ValueError("other")
