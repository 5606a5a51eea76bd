"""What the service costs and how fast it answers: ``python -m bench.service``. Measures a real ``fusetune serve``."""
