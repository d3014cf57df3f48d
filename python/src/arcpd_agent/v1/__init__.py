"""Stubs generated out of `proto/arcp/v1` while the wheel is built."""
