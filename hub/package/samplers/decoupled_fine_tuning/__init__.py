"""The decoupled sampler of tradeoff, and the objective that it is made for; `pip install tradeoff` brings both."""

from tradeoff import DecoupledSampler, Objective

__all__ = ["DecoupledSampler", "Objective"]
