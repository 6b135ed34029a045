"""The program as it is, but for how soon a silent attempt's lease runs out: tests do not wait for 60 s.

python tests/e2e/impatient.py TTL_S ARGUMENT ...
"""

import functools
import sys

from job import stopping

if __name__ == "__main__":
    stopping.install()  # as `job.__main__` does, before anything slow is imported
    from job.__main__ import main
    from job.storage import lease

    ttl_s = float(sys.argv.pop(1))
    hold: object = functools.partial(lease.hold, ttl_s=ttl_s, renew_s=ttl_s / 3)
    vars(lease)["hold"] = hold
    sys.exit(main())
