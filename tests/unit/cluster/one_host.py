"""A cluster of one machine, this one, without Ray."""

from __future__ import annotations

from tuner.measure.cluster.cluster import Answer, Call, Member
from tuner.measure.cluster.host import Host
from tuner.measure.cluster.messages import pack, unpack
from tuner.types import Device


class OneHost:
    """A Cluster of one machine, this one, that goes away under so many requests."""

    def __init__(self, host: Host, losses: int = 0) -> None:
        self._host, self._losses = host, losses
        self._answers: list[Answer] = []
        self.asked: list[dict[str, object]] = []

    def having(self, device: Device) -> list[Member]:
        return [Member("one", device, 0, {})]

    def call(self, call: Call) -> int:
        self.asked.append(dict(call.header))
        if call.method == "whole" and self._losses:
            self._losses -= 1
            self._answers.append(Answer(len(self.asked), None, "its node died"))
            return len(self.asked)
        assert call.blob is not None and call.keep is not None
        header, blob = unpack(getattr(self._host, call.method)(pack(dict(call.header), call.blob.read_bytes())))
        call.keep.write_bytes(blob)
        self._answers.append(Answer(len(self.asked), header))
        return len(self.asked)

    def exchange(self, seconds: float) -> list[Answer]:
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        pass

    dispose = close
