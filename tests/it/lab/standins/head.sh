#!/bin/sh
set -eu
umask 022
here='{here}' data='{data}'
log() { printf '%s\n' "$*" | sed "s|$data|\$SNAP_DATA|g" >> "$here/calls.log"; }
