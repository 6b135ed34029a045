#!/bin/sh
# Process 1 of a container loses a signal for which it has no handler yet: SIGTERM and SIGINT wait, blocked, until
# job/stopping.py has installed its own. A spec (a path, s3://, - for standard input) or a verb with its arguments.
exec env --block-signal=TERM --block-signal=INT python -m job "$@"
