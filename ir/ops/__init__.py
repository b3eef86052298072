"""Operator definitions, one family a file; a new file here is found by itself."""
from .base import Op, Sample, all_ops, find, register, since_version

__all__ = ["Op", "Sample", "all_ops", "find", "register", "since_version"]
