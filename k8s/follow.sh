#!/bin/sh
# Show a Job's log as soon as there is one, also that of a Pod that was over at once: k8s/follow.sh JOB [NAMESPACE]
# Until then it says what the Pod waits for, such as ContainerCreating or ImagePullBackOff; Ctrl-C only stops the looking.
set -eu
job=${1:?which Job? k8s/follow.sh JOB [NAMESPACE]} space=${2:-segmenter-rl-job}
said=
kubectl -n "$space" get "job/$job" -o name > /dev/null # without it there is nothing to wait for
while :; do
  state=$(kubectl -n "$space" get pods -l "batch.kubernetes.io/job-name=$job" \
    -o jsonpath='{.items[*].status.phase} {.items[*].status.containerStatuses[*].state.waiting.reason}')
  case $state in *Running* | *Succeeded* | *Failed*) break ;; esac
  [ "$state" = "$said" ] || echo "$job: ${state:-no Pod yet}" >&2
  said=$state
  sleep 3
done
exec kubectl -n "$space" logs -f "job/$job"
