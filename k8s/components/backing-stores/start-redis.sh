#!/bin/sh
# Becomes the server. Its password comes by standard input, so that no list of processes shows it.
set -eu
exec valkey-server - "$@" <<CONFIG
requirepass $(cat /etc/peregrine/secrets/password)
CONFIG
