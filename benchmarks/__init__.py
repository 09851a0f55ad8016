"""Measurements that docs/benchmarks.md reports. Each is `python -m benchmarks.NAME`; none is a test."""
