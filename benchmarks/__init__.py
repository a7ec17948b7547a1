"""What explaining costs, measured: against the plain gradient, and side by side with other libraries.

`python -m benchmarks --help` says what can be measured; `make bench` runs it in the environment of `make test`.
"""
