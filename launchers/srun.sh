#!/usr/bin/env bash
# srun with the process management that this Slurm offers: PMIx if it has it, else none.
#
#   launchers/srun.sh -N 2 --ntasks-per-node=4 dcluster run -- ./app    everything is handed to srun as it is
#   launchers/srun.sh --mpi=none -N 2 dcluster                          an --mpi of yours, or SLURM_MPI_TYPE, wins
#
# With PMIx the ranks meet over MPI, and Slurm ends the whole step when one rank dies. With --mpi=none they meet
# over TCP, data goes over TCP and shared memory, and the others live on: --kill-on-bad-exit=0 is added then.
# This script ends with the code of rank 0, which leaves it in the file DCLUSTER_EXIT_CODE_FILE; srun's is the highest.
#
# One Ctrl-C ends the cluster in order (--disable-status), and so does a TERM: srun alone would kill every rank.
set -euo pipefail

# shellcheck source=launchers/ending.sh
. "$(dirname "${BASH_SOURCE[0]}")/ending.sh"

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

case ${1:-} in
'' | -h | --help)
    usage
    [ $# -gt 0 ] || exit 2
    exit 0
    ;;
esac

if ! command -v srun >/dev/null; then
    echo "srun.sh: no srun on PATH: this is not a Slurm cluster, or its module is not loaded" >&2
    exit 127
fi

# Words behind `--` are the program's, as in `dcluster run -- ./app --mpi=yes`.
chosen=${SLURM_MPI_TYPE:-}
for word in "$@"; do
    case $word in
    --mpi=*)
        chosen=${word#--mpi=}
        break
        ;;
    --) break ;;
    esac
done

if [ -z "$chosen" ]; then
    # (srun prints the list on stderr)
    if srun --mpi=list 2>&1 | grep -Eqw 'pmix'; then chosen=pmix; else chosen=none; fi
    set -- "--mpi=$chosen" "$@"
fi
if [ "$chosen" = none ]; then
    set -- --kill-on-bad-exit=0 "$@"
fi

make_note
launch srun --disable-status "$@"
watch_over INT
# Ctrl-C reaches srun by itself, which hands it to the ranks.
trap : INT
ended=
# srun hands on an INT, and kills the ranks on these.
trap 'ended=143; hand_on INT' TERM
trap 'ended=129; hand_on INT' HUP
serve_signals
wait_for_launcher
exit "${ended:-$code}"
