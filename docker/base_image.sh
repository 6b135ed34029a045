#!/bin/sh
# Sees to it that the engine $1 (docker or podman) has the base image $2: from a registry, else made of this machine's
# own Debian packages.
#
# For machines that reach a package mirror and no registry, such as a CI's: what is built on it shows that the
# Dockerfile works. It is Debian's Python, not the official image: nothing to hand out.
set -eu
: "${SUITE:=bookworm}"
engine=$1 name=$2
case $name in
*/*) ;;
*) name=docker.io/library/$name ;; # podman would take a short name for one of this machine's own
esac

if "$engine" image inspect "$name" >/dev/null 2>&1 || "$engine" pull --quiet "$name" 2>/dev/null; then exit; fi
command -v mmdebstrap >/dev/null || {
    echo "error: no registry gives $name, and there is no mmdebstrap to make it: apt-get install mmdebstrap" >&2
    exit 1
}
echo "no registry gives $name: it is made of Debian packages ($SUITE)" >&2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
    grep " $SUITE" | sort -u >"$folder/sources.list" || {
    echo "error: apt knows no packages of $SUITE: apt-get update, or SUITE=... for this machine's own" >&2
    exit 1
}
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
    "$SUITE" "$folder/base.tar" "$folder/sources.list"
"$engine" import --change 'CMD ["python3"]' "$folder/base.tar" "$name"
