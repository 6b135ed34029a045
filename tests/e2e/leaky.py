"""The program with a defect in its first stage, which says in every way it can what nobody must read.

python tests/e2e/leaky.py ARGUMENT ...
"""

import logging
import os
import sys
import threading
import warnings
from typing import NoReturn

from job import stopping


def compute(*given: object) -> NoReturn:
    """Stands for `job.stages.stage.compute`: warns, logs, loses a thread, and raises, all with secrets."""
    from botocore.exceptions import ClientError

    secret, token = os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["HF_TOKEN"]
    words = f"{secret} and {token} and {os.environ['DATA_LINK']}"
    sys.stderr.write(f"{words}\n")
    warnings.warn(words, stacklevel=1)
    logging.getLogger("a.library").error(words)
    thread = threading.Thread(target=_raise, args=(words,))
    thread.start()
    thread.join()
    answer = {"Error": {"Code": "Odd", "Message": f"{os.environ['AWS_ACCESS_KEY_ID']}: {words}"}}
    raise RuntimeError(words) from ClientError(answer, "GetObject")  # type: ignore[arg-type]


def _raise(words: str) -> NoReturn:
    raise ValueError(words)


if __name__ == "__main__":
    stopping.install()
    from job import pipeline
    from job.__main__ import main

    vars(pipeline)["compute"] = compute
    sys.exit(main())
