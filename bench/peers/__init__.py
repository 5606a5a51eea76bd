"""Models side by side with other libraries: one model at a time, and the whole table of ``python -m bench.peers``."""

from bench.peers.sidebyside import PEERS, BenchReport, Row, bench, machine, random_inputs
