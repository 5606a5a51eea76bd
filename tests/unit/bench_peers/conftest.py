"""What needs PyTorch is only collected where it is: it is an extra that ``make test`` does not install."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["test_peers_torch.py"]
