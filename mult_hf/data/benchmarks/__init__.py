"""Readers that turn downloaded benchmarks into the package's schema, one file per benchmark."""
