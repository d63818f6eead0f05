"""The heads of a model while it is being trained, in transformers' Trainer or in a loop of your own."""

from .monitor import HeadMonitor

__all__ = ["HeadMonitor"]
