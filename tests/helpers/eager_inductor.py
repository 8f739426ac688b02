"""For a trial server, in place of the C++ compiler: what dynamo traces runs as it is, and everything above it is real."""

import torch._inductor.compile_fx
from torch._dynamo.backends.debugging import aot_eager


def compile_fx(graph, inputs, **_):
    return aot_eager(graph, inputs)


torch._inductor.compile_fx.compile_fx = compile_fx
