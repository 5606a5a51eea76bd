"""The Python client of the service.

Usage::

    import os
    from pathlib import Path

    from service.client import Client
    from tuner.types import Budget, JobSpec

    with Client("http://127.0.0.1:8077", token=os.environ["FUSETUNE_TOKEN"]) as client:
        model = client.upload(Path("resnet50.onnx"))
        job = client.submit(JobSpec(model=model.id, strategy="greedy", budget=Budget(seconds=120)))
        for event in client.watch(job.id):
            print(event.kind, event.data)
        job = client.job(job.id)
        print(job.state, job.latency_ms["best"], job.speedup["over_onnxruntime"])
        client.download(job.id, "artifact", Path("resnet50.zip"))
"""

from service.client.client import Action, Client, What
from service.client.values import Event, Listing, Model, RemoteJob

__all__ = ["Action", "Client", "Event", "Listing", "Model", "RemoteJob", "What"]
