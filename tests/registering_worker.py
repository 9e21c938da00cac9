"""Processes that register versions at the same moment, as trainings on several machines do.

Usage: registering_worker.py URI N_PROCESSES N_REPETITIONS. Prints, for each repetition, the version that has the alias
and the one with the lowest valid CER.
"""

import contextlib
import multiprocessing
import random
import sys
from multiprocessing.synchronize import Barrier

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from kmed_bench.tracking.registry.challenger import CER_TAG, persistently, set_challenger
from kmed_bench.tracking.waiting import wait_for_sqlite


def register(uri: str, barrier: Barrier, worker: int, repetitions: int) -> None:
    wait_for_sqlite()
    client = MlflowClient(tracking_uri=uri)
    for repetition in range(repetitions):
        name = f"kmed-whisper-{repetition}"
        cer = random.Random(f"{worker} {repetition}").random()
        barrier.wait()
        with contextlib.suppress(MlflowException):  # another process made the model
            client.create_registered_model(name)
        version = persistently(lambda name=name: client.create_model_version(name, source=f"s3://none/{worker}"))
        for key, value in (("kmed.split_sha256", "ab" * 32), (CER_TAG, repr(cer))):
            client.set_model_version_tag(name, version.version, key, value)
        set_challenger(client, name, str(version.version))
    barrier.wait()


def main(uri: str, processes: int, repetitions: int) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(processes)
    workers = [
        context.Process(target=register, args=(uri, barrier, worker, repetitions)) for worker in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * processes
    client = MlflowClient(tracking_uri=uri)
    for repetition in range(repetitions):
        name = f"kmed-whisper-{repetition}"
        versions = client.search_model_versions(f"name = '{name}'")
        assert len(versions) == processes
        best = min(versions, key=lambda version: float(version.tags[CER_TAG]))
        print(client.get_registered_model(name).aliases["challenger"], best.version)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
