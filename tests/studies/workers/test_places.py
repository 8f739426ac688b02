import pytest

from tradeoff.objectives.device.cpu import CpuDevice
from tradeoff.objectives.device.cuda import CudaDevice
from tradeoff.objectives.device.registry import VisibleDevices
from tradeoff.studies.errors import TradeoffError
from tradeoff.studies.workers.places import default_num_workers, memory_shares, places

NO_GPU = VisibleDevices(CpuDevice, [])


def gpus(*names: str) -> VisibleDevices:
    return VisibleDevices(CudaDevice, list(names))


@pytest.fixture(autouse=True)
def _no_threads_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_by_default_there_is_a_worker_for_each_gpu_and_one_where_there_is_none() -> None:
    assert default_num_workers(gpus("0", "2", "5")) == 3
    assert default_num_workers(NO_GPU) == 1


def test_by_default_gpus_that_are_needed_together_make_one_worker() -> None:
    assert default_num_workers(gpus(*"01234"), devices_each=2) == 2


def test_each_worker_has_a_gpu_by_the_name_that_the_user_gave_it() -> None:
    found = places(2, devices=gpus("GPU-aa", "3"), processors=range(8))
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in found] == ["GPU-aa", "3"]
    assert [place.processors for place in found] == [(), ()]


def test_a_worker_whose_trials_take_two_gpus_has_two() -> None:
    found = places(2, devices=gpus(*"01234"), processors=range(8), devices_each=2)
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in found] == ["0,1", "2,3"]


def test_more_workers_than_gpus_are_refused_with_the_reason() -> None:
    with pytest.raises(
        TradeoffError, match=r"^--workers must leave a GPU for each worker: got 3 workers, and 2 visible here \(0, 1\)"
    ):
        places(3, devices=gpus("0", "1"))


def test_on_a_cpu_each_worker_has_as_many_processors_as_the_others_and_threads_for_them() -> None:
    found = places(2, devices=NO_GPU, processors=[0, 1, 2, 3, 6])
    assert [place.processors for place in found] == [(0, 1), (2, 3)]
    assert [place.environment for place in found] == [{"OMP_NUM_THREADS": "2"}] * 2


def test_more_workers_than_processors_share_them() -> None:
    assert [place.processors for place in places(3, devices=NO_GPU, processors=[0, 1])] == [(0,), (1,), (0,)]


def test_the_number_of_threads_that_the_user_has_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert places(2, devices=NO_GPU, processors=range(8))[0].environment == {}


def test_trials_that_may_take_more_memory_together_than_there_is_are_said_with_the_limit_that_helps() -> None:
    assert memory_shares(2, None, 15999) == (
        "2 trainings share 15,999 MiB of memory, and each may take all of it: where they run out of it together, the kernel may"
        " end one; a new study with limits.peak_memory_mib of at most 7999 leaves each its share"
    )
    assert "each may take 6,000: where" in str(memory_shares(3, 6000, 16000))


@pytest.mark.parametrize(("num", "limit_mib"), [(2, 8000), (1, None), (4, 900)])
def test_trials_that_fit_beside_each_other_need_no_word(num: int, limit_mib: float | None) -> None:
    assert memory_shares(num, limit_mib, 16000) is None
