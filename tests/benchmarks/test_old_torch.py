"""Traces of older releases of torch, and the published figures that they are compared with."""

import memory_plan
import pytest
from old_torch import Torch20Tracer, Torch110LoopAdamWTracer, Torch110Tracer
from published_rows import lecture
from transformers import BertConfig, BertForSequenceClassification

from tradeoff.objectives.memory_estimator.blas import BlasWorkspace
from tradeoff.objectives.memory_estimator.settings import StepClass, TraceSettings
from tradeoff.objectives.memory_estimator.tracing.trace import Tracer
from tradeoff.searchspace import Precision

CONFIG = BertConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50, num_labels=3
)
SETTINGS = TraceSettings(
    sequence_length=16, attention="eager", max_grad_norm=0, blas=BlasWorkspace(cublas_bytes=0, cublaslt_bytes=0)
)
PLAIN = StepClass(gradient_checkpointing=False, precision=Precision.FP32)


def peak_bytes(segment):
    """The most that is requested at once."""
    live, peak = {}, 0
    for event in segment:
        if event.num_bytes is None:
            live.pop(event.key, None)
        else:
            live[event.key] = event.num_bytes
            peak = max(peak, sum(live.values()))
    return peak


@pytest.mark.slow
def test_the_lectures_measurements_are_met_and_9_samples_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_plan, "BUILD", tmp_path)
    results = [each for runs in lecture() for each in memory_plan.of_runs(runs)]
    for each in results:
        assert each.error is None or abs(each.error) < 0.05, each
    assert [each.published.case for each in results if not each.fits] == ["random, 9 x 1"]


def test_the_foreach_adamw_of_torch_2_0_takes_two_copies_of_the_parameters():
    decayed = sum(each.numel() * 4 for each in BertForSequenceClassification(CONFIG).parameters() if each.dim() > 1)
    for tracer, copies in ((Tracer, 1), (Torch20Tracer, 2)):
        assert peak_bytes(tracer(CONFIG, SETTINGS).trace(PLAIN, 2).next_step) == copies * decayed


def test_adamw_in_a_loop_takes_room_for_its_largest_parameter_and_the_one_before():
    segments = Torch110LoopAdamWTracer(CONFIG, SETTINGS).trace(PLAIN, 2)
    # The denominator of the word embeddings, 50 x 32, lives until that of the positions, 512 x 32, takes its name.
    assert peak_bytes(segments.next_step) == (50 * 32 + 512 * 32) * 4


@pytest.mark.parametrize("tracer", [Torch110Tracer, Torch110LoopAdamWTracer])
def test_torch_1_10_keeps_gradients_when_they_are_zeroed(tracer):
    assert tracer(CONFIG, SETTINGS).trace(PLAIN, 2).zero_gradients == ()


def test_torch_1_10_keeps_the_input_of_each_softmax():
    old, new = (tracer(CONFIG, SETTINGS).trace(PLAIN, 4).first_micro_batch for tracer in (Torch110Tracer, Tracer))
    scores = 4 * 2 * 16 * 16 * 4
    # One for each of two layers.
    assert peak_bytes(old) - peak_bytes(new) == 2 * scores
