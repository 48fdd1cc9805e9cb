#!/bin/bash
# Writes down when a program was called, then becomes that program. The lab puts it in front of the
# resource agent and of attrd_updater, so that what it measures is what the cluster really did.
printf '%s %s %s\n' "$EPOCHREALTIME" "$(</proc/sys/kernel/hostname)" "@NAME@ $*" >>/lab/journal
exec @PROGRAM@ "$@"
