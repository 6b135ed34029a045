"""Copy MODEL_URI, a folder of a bucket, to the folder that is given; it appears there whole or not at all.

A copy that was interrupted goes on, a folder that is there is left alone.
"""

import os
import signal
import sys
from pathlib import Path

from job import last_words
from job.errors import Interrupted, SpecError
from job.storage.fetch import listing
from job.storage.store import Download


def place() -> str:
    """Return MODEL_URI; raises `SpecError` where it is not set, which is a mistake in the manifest."""
    uri = os.environ.get("MODEL_URI")
    if not uri:
        raise SpecError(
            "MODEL_URI is not set: the folder of the bucket that holds the checkpoint",
            advice="set it in `env` of k8s/models/fill-models-job.yaml, such as s3://my-bucket/checkpoints/sa2va",
        )
    return uri


def stop(number: int, _: object) -> None:
    """End at once, also in the middle of a request: whole files stay, the next attempt copies the others."""
    os._exit(
        last_words.say(Interrupted(f"stopped by {signal.Signals(number).name}; files that are whole stay"))
    )


try:
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    target = Path(sys.argv[1])
    found = listing(place())
    part = target.with_name(f".{target.name}.{found.digest[:12]}")  # another checkpoint's would not fit
    if target.exists():
        print(f"{target} is there already; another checkpoint needs a folder of another name")
    else:
        missing = [Download(one, part / one.key) for one in found.objects if not (part / one.key).exists()]
        print(f"copying {len(missing)} of {len(found.objects)} files of {found.uri}", flush=True)
        for item in missing:
            item.target.parent.mkdir(parents=True, exist_ok=True)
        found.store.download(missing)
        part.rename(target)
        print(f"{target}: {len(found.objects)} files, {found.total_bytes / 1e9:.2f} GB")
except Exception as error:
    sys.exit(last_words.say(error))
