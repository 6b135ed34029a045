"""Copy MODEL_URI, a folder of a bucket, to the folder that is given; it appears there whole or not at all.

A copy that was interrupted goes on, a folder that is there is left alone.
"""

import os
import sys
from pathlib import Path

from job import last_words
from job.storage.fetch import listing
from job.storage.store import Download

try:
    target = Path(sys.argv[1])
    found = listing(os.environ["MODEL_URI"])
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
